"""What csrc/ makes of a strip of rows after its convolution: against fp64 and, to the last bit, plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.kernels.config import Border
from deblurgan.ops.strips import strip_moments, strip_norm_act, takes_rows

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
pytestmark = pytest.mark.usefixtures("seeded")


@each_dtype
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 24), (2, 128, 16), (9, 131, 27)], ids=str)
def test_moments(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    y = (torch.randn(size) * torch.arange(1, size[2] + 1) + 100).to(dtype)
    values = y.double().flatten(0, 1)
    mean, m2 = strip_moments(y)
    wanted = (values - values.mean(0)).square().sum(0)
    assert (mean - values.mean(0)).abs().max() <= 2**-23 * 110
    assert ((m2 - wanted).abs() <= 1e-5 * wanted + 1e-9).all()


@each_dtype
def test_a_constant_plane_is_known_to_the_last_bit(dtype: torch.dtype) -> None:
    y = torch.tensor([1 / 3, -1e4, 0.1]).to(dtype).expand(7, 131, 3)
    assert torch.equal(strip_moments(y), torch.stack([y[0, 0].float(), torch.zeros(3)]))


def test_one_bad_pixel_shows() -> None:
    y = torch.randn(5, 131, 3)
    y[4, 100, 1] = torch.inf
    assert strip_moments(y).isnan().any(0).tolist() == [False, True, False]
    out = torch.empty_like(y)
    y[4, 100, 1] = torch.nan
    strip_norm_act(y, torch.ones(2, 3), "relu", None, out, Border("zero", 0))
    assert torch.equal(out.isnan(), y.isnan())


def by_torch(y: Tensor, stats: Tensor, act: str, residual: Tensor | None) -> Tensor:
    value = (y.float() - stats[0]) * stats[1]
    value = value.relu() if act == "relu" else value
    return (value if residual is None else value + residual).to(y.dtype)


@each_dtype
@pytest.mark.parametrize("mode", ["reflect", "zero"])
@pytest.mark.parametrize("width", [0, 1, 3])
@pytest.mark.parametrize("act", ["relu", "none"])
def test_norm_act(act: reference.Act, width: int, mode: reference.Border, dtype: torch.dtype, poisoned: None) -> None:
    y, stats = torch.randn(7, 12, 27).to(dtype)[::2, 2:-2], torch.randn(2, 27)
    residual = None if act == "relu" and width == 1 else torch.randn(4, 10, 27).to(dtype)[:, 1:-1]
    assert takes_rows(y)
    out = torch.empty(4, 8 + 2 * width, 27, dtype=dtype)
    strip_norm_act(y, stats, act, residual, out, Border(mode, width))
    planes = by_torch(y, stats, act, residual).permute(2, 0, 1)[None].float()
    wanted = reference.pad(planes, width, mode)[0, :, width : width + 4] if width else planes[0]
    assert torch.equal(out.permute(2, 0, 1).float(), wanted)


def test_threads_change_no_bit() -> None:
    y, stats = torch.randn(64, 600, 24), torch.randn(2, 24)
    threads, found = torch.get_num_threads(), list[tuple[Tensor, Tensor]]()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            out = torch.empty(64, 602, 24)
            strip_norm_act(y, stats, "relu", None, out, Border("reflect", 1))
            found.append((strip_moments(y), out))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"residual": torch.zeros(2, 4, 3).bfloat16()}, r"residual must be rows \[2, 4, 3\] of torch.float32"),
        ({"out": torch.zeros(2, 5, 3)}, r"out must be rows \[2, 6, 3\]"),
        ({"stats": torch.zeros(2, 3).double()}, "stats must be fp32"),
        ({"border": Border("reflect", 4), "out": torch.zeros(2, 12, 3)}, "narrower than the 4 pixels"),
    ],
)
def test_norm_act_refuses_what_would_lie_elsewhere(changes: dict[str, Any], match: str) -> None:
    args = {"residual": None, "out": torch.zeros(2, 6, 3), "stats": torch.zeros(2, 3), "border": Border("reflect", 1)}
    with pytest.raises(ValueError, match=match):
        strip_norm_act(torch.zeros(2, 4, 3), act="relu", **(args | changes))


def test_rows_that_csrc_does_not_take() -> None:
    assert not takes_rows(torch.randn(2, 3, 4).half())
    assert not takes_rows(torch.randn(2, 4, 3).mT)
    assert not takes_rows(torch.empty(2, 3, 4, device="meta"))
