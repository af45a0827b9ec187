"""norm_act in our kernel against the reference in fp64: residual, border, dropout, 8 bits."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pytest
import torch

from conftest import KERNEL_DEVICE, OP_TOLERANCE, assert_matches, relative_error
from deblurgan import reference
from deblurgan.kernels.config import (
    Border,
    Dropout,
    NormActInputs,
    Quantized,
    TileStats,
)
from kernel_cases import (
    Launches,
    bordered,
    each_dtype,
    merge,
    nchw,
    normal,
    tiles_of,
    untouched,
)

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels import norm_act as norm_act_module
from deblurgan.kernels.norm_act import norm_act

pytestmark = pytest.mark.usefixtures("seeded")


class Norm(NamedTuple):
    h: int
    w: int
    c: int
    border: reference.Border | None
    width: int
    relu: bool = True
    residual: bool = False
    in_place: bool = False
    n: int = 1
    leak: float = 0.0

    @property
    def act(self) -> reference.Act:
        return "none" if not self.relu else "leaky_relu" if self.leak else "relu"

    @property
    def slope(self) -> float:
        return self.leak if self.relu else 1.0


NORMS = {
    "in place": Norm(3, 7, 24, "reflect", 1, in_place=True, n=2),
    "in place, residual": Norm(3, 5, 48, "reflect", 1, relu=False, residual=True, in_place=True, n=2),
    "residual after ReLU": Norm(2, 3, 96, "zero", 1, residual=True, in_place=True, n=3),
    "row of several blocks": Norm(2, 17, 256, "reflect", 1),
    "mirrored across blocks": Norm(4, 18, 256, "reflect", 3, relu=False),
    "wide border in place": Norm(5, 6, 24, "reflect", 3, in_place=True, n=2),
    "least reflect": Norm(2, 2, 32, "reflect", 1, in_place=True),
    "least wide reflect": Norm(4, 4, 32, "reflect", 3),
    "least zero": Norm(1, 2, 32, "zero", 1, in_place=True),
    "least wide zero": Norm(3, 3, 32, "zero", 3),
    "zero, row of several blocks": Norm(3, 33, 128, "zero", 1, relu=False, residual=True),
    "no border": Norm(3, 5, 64, None, 0, relu=False, residual=True),
    "leaky": Norm(3, 5, 24, None, 0, leak=reference.SLOPE, n=2),
    "leaky, residual": Norm(2, 17, 256, "reflect", 1, leak=reference.SLOPE, residual=True),
}


@each_dtype
@pytest.mark.parametrize("case", NORMS.values(), ids=NORMS.keys())
def test_norm_act(case: Norm, dtype: torch.dtype) -> None:
    memory, whole, out = bordered(case.n, case.h, case.w, case.c, case.width, dtype)
    y = out if case.in_place else bordered(case.n, case.h, case.w, case.c, 2, dtype)[2]
    y.copy_(normal(*y.shape) * 3 + 1)
    _, _, residual = bordered(case.n, case.h, case.w, case.c, 1, dtype)
    residual.copy_(normal(*residual.shape))
    wide = nchw(y).double()
    wanted = reference.norm_act(wide, act=case.act, residual=nchw(residual).double() if case.residual else None)
    mean, var = wide.mean((2, 3)), wide.var((2, 3), unbiased=False)
    stats = torch.stack([mean, (var + reference.EPS).rsqrt()], 1).float()
    norm_act(
        NormActInputs(y, stats, case.slope),
        out,
        residual=residual if case.residual else None,
        border=Border(case.border, case.width) if case.border else None,
    )
    assert_matches(nchw(out), wanted)
    assert torch.equal(nchw(whole), reference.pad(nchw(out), case.width, case.border or "zero"))
    assert untouched(memory, whole)


@pytest.mark.parametrize("mode", ["reflect", "zero"])
@pytest.mark.parametrize("width", [1, 3])
def test_norm_act_writes_the_sides_alone(mode: Literal["reflect", "zero"], width: int) -> None:
    """Rows above and below are not touched, and the rest is as with the whole border."""
    y, stats = normal(2, 4, 18, 256), normal(2, 2, 256)
    wholes = []
    for sides_alone in (False, True):
        memory, whole, out = bordered(2, 4, 18, 256, width, torch.float32)
        norm_act(NormActInputs(y, stats), out, border=Border(mode, width), sides_alone=sides_alone)
        wholes.append(whole)
    rows = wholes[1][:, width:-width]
    assert torch.equal(rows, wholes[0][:, width:-width])
    assert untouched(memory, rows)


DROPS = {
    "seed and picture of more than 32 bits": (2, 3, 5, 24, 0.3, 2**40 + 3, 2**33 + 9, 1),
    "rows of several blocks, a later block": (1, 2, 40, 256, 0.5, 7, 0, 8),
    "most are dropped": (2, 4, 4, 16, 0.9, 2**63 - 1, 2**63 - 3, 0),
}


@pytest.mark.parametrize(("n", "h", "w", "c", "p", "seed", "first", "rng_stream"), DROPS.values(), ids=DROPS.keys())
def test_norm_act_drops_what_the_reference_drops(
    n: int, h: int, w: int, c: int, p: float, seed: int, first: int, rng_stream: int
) -> None:
    y, stats = normal(n, h, w, c), torch.zeros(n, 2, c, device=KERNEL_DEVICE)
    stats[:, 1] = 1
    counter = torch.tensor([seed, first], device=KERNEL_DEVICE)
    mask = reference.dropout_mask((n, c, h, w), p, seed=seed, first=first, rng_stream=rng_stream).to(KERNEL_DEVICE)
    residual = normal(n, h, w, c)
    memory, whole, out = bordered(n, h, w, c, 1, torch.float32)
    levels = torch.full(whole.shape, 99, dtype=torch.int8, device=KERNEL_DEVICE)
    inputs = NormActInputs(y, stats, 0.0, Dropout(p, counter, rng_stream))
    norm_act(inputs, out, border=Border("reflect", 1), quantized=Quantized(levels[:, 1:-1, 1:-1], 0.05))
    wanted = nchw(y).double().relu() * mask / (1 - p)
    assert_matches(nchw(out), wanted)
    assert torch.equal(nchw(out) != 0, mask & (nchw(y) > 0))
    assert torch.equal(nchw(whole), reference.pad(nchw(out), 1, "reflect"))
    assert untouched(memory, whole)
    assert torch.equal(levels, (whole / 0.05 + 0.5).floor().clamp(-127, 127).to(torch.int8))
    norm_act(inputs._replace(slope=1.0), out, residual=residual)
    assert_matches(nchw(out), nchw(residual) + nchw(y).double() * mask / (1 - p))


def test_norm_act_refuses_what_it_cannot_drop() -> None:
    counter, stats = torch.zeros(2, dtype=torch.int64, device=KERNEL_DEVICE), torch.ones(1, 2, 6, device=KERNEL_DEVICE)
    y = normal(1, 2, 2, 6)
    for p, match in ((0.5, "channels in fours"), (0.0, r"p must be in \(0, 1\)"), (1.0, "p must be")):
        with pytest.raises(ValueError, match=match):
            norm_act(NormActInputs(y, stats, dropout=Dropout(p, counter)), y)


def test_norm_act_knows_the_zero_point_of_8_bits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = Launches()
    monkeypatch.setattr(norm_act_module, "norm_act_kernel", launches)
    y, stats = normal(1, 2, 2, 16), torch.ones(1, 2, 16, device=KERNEL_DEVICE)
    levels = torch.zeros(1, 2, 2, 16, dtype=torch.int8, device=KERNEL_DEVICE)
    norm_act(NormActInputs(y, stats), y)
    norm_act(NormActInputs(y, stats), y, quantized=Quantized(levels, 1.0, -127))
    plain, narrow = launches.options
    assert (plain["QUANTIZED"], plain["ZERO"]) == (0, 0)
    assert (narrow["QUANTIZED"], narrow["ZERO"]) == (1, -127)


@each_dtype
@pytest.mark.parametrize("pixels", [[35], [0, 16, 16, 3], [1] * 35], ids=["a tile", "an empty one", "a pixel each"])
def test_norm_act_merges_tiles(pixels: list[int], dtype: torch.dtype) -> None:
    """As after `merge_stats`, but for the order of the sums; channels in two blocks."""
    n, h, w, c = 2, 5, 7, 96
    memory, whole, out = bordered(n, h, w, c, 3, dtype)
    y = (normal(n, h, w, c) * 3 + 10).to(dtype)
    y[..., 5] = 0.1
    partials, counts = tiles_of(y.flatten(1, 2), pixels)
    partials[:, 0 if pixels[0] else 1 :, 0, 5] = y[0, 0, 0, 5].float()
    residual = normal(n, h, w, c, dtype=dtype)
    counter = torch.tensor([3, 4], device=KERNEL_DEVICE)
    inputs = NormActInputs(y, TileStats(partials, counts), 0.0, Dropout(0.5, counter))
    norm_act(inputs, out, residual=residual, border=Border("reflect", 3), eps=reference.EPS)
    mask = reference.dropout_mask((n, c, h, w), 0.5, seed=3, first=4).to(KERNEL_DEVICE)
    wanted = reference.norm_act(nchw(y).double()) * mask * 2 + nchw(residual)
    assert_matches(nchw(out), wanted)
    assert torch.equal(nchw(whole), reference.pad(nchw(out), 3, "reflect"))
    assert untouched(memory, whole)
    if pixels[0]:
        assert torch.equal(out[..., 5], residual[..., 5]), "a constant plane is not exactly zero"
    apart = torch.empty_like(out)
    norm_act(inputs._replace(stats=merge(partials, counts)), apart, residual=residual)
    assert relative_error(out, apart) <= (1e-6 if dtype == torch.float32 else OP_TOLERANCE[dtype])


def test_norm_act_refuses_many_tiles() -> None:
    y = normal(1, 5, 13, 16)
    partials, counts = tiles_of(y.flatten(1, 2), [1] * 65)
    with pytest.raises(ValueError, match="at most 64 tiles, got 65"):
        norm_act(NormActInputs(y, TileStats(partials, counts)), y, eps=reference.EPS)
