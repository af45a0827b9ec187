"""Weights as the kernels read them, against torch's own layers."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import KERNEL_DEVICE, relative_error
from deblurgan import reference
from deblurgan.ops import conv
from deblurgan.ops.layers import conv_layer, stem_layer, up_layer

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels import output_tail


def close(got: Tensor, wanted: Tensor) -> bool:
    return relative_error(got, wanted) <= 1e-12


def product(x: Tensor, weight: Tensor, taps: tuple[int, int], h: int, w: int) -> Tensor:
    """What the kernel makes of x [n, h', w', c] and a packed weight: [n, h, w, cout], all in fp64."""
    runs = weight.unflatten(1, (taps[0] * taps[1], -1))
    read = runs.shape[2]
    flat = x.flatten(2)
    c = x.shape[3]
    out = torch.zeros(x.shape[0], h, w, weight.shape[0], dtype=x.dtype)
    for tap, (i, j) in enumerate(itertools.product(range(taps[0]), range(taps[1]))):
        lines = flat[:, i : i + h, j * c :].unfold(2, read, c)[:, :, :w]
        out += lines @ runs[:, tap].T
    return out


def test_packed_weights_are_torch_s_layers() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    bordered = F.pad(x, (1,) * 4).permute(0, 2, 3, 1)

    weight = torch.randn(7, 5, 3, 3, dtype=torch.float64)
    layer = conv_layer("trunk", weight, torch.float64)
    wanted = F.conv2d(x, weight, padding=1)
    assert close(product(bordered, layer.weight.rows, layer.weight.taps, 4, 6).permute(0, 3, 1, 2), wanted)
    assert torch.equal(layer.library, weight)
    assert conv_layer("down", weight, torch.float64, stride=2).weight.stride == 2

    weight = torch.randn(5, 7, 3, 3, dtype=torch.float64)
    layer = up_layer(weight, torch.float64)
    wanted = F.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1)
    taps = ((1, 1), (1, 2), (2, 1), (2, 2))
    rows = layer.weight.rows.split([5 * i * j for i, j in taps], 1)
    for phase, (u, v) in enumerate(itertools.product((0, 1), (0, 1))):
        got = product(bordered[:, 1:, 1:], rows[phase], taps[phase], 4, 6)
        assert close(got.permute(0, 3, 1, 2), wanted[..., u::2, v::2]), (u, v)


def test_a_library_reads_the_bordered_picture_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch copies what is not contiguous before cuDNN reads it."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 4, 6).to(KERNEL_DEVICE), torch.randn(5, 8, 3, 3).to(KERNEL_DEVICE)
    bordered = F.pad(x, (1,) * 4).permute(0, 2, 3, 1).contiguous()
    read = []
    transposed = F.conv_transpose2d
    monkeypatch.setattr(conv.F, "conv_transpose2d", lambda x, *a, **b: read.append(x) or transposed(x, *a, **b))
    y, _ = conv.conv_tiles(
        up_layer(weight, torch.float32), bordered, torch.empty(2, 8, 12, 8, device=KERNEL_DEVICE), config=None
    )
    wanted = transposed(x.double(), weight.double(), stride=2, padding=1, output_padding=1)
    assert relative_error(y.permute(0, 3, 1, 2), wanted) <= 1e-6
    assert read[0].is_contiguous(memory_format=torch.channels_last) and read[0].data_ptr() == bordered.data_ptr()


def test_packed_stem_is_torch_s_layer() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 5, 6, dtype=torch.float64)
    weight = torch.randn(7, 3, 7, 7, dtype=torch.float64)
    wanted = F.conv2d(reference.pad(x, 3, "reflect"), weight)
    packed = torch.randn(1, 11, 13, 4, dtype=torch.float64)  # spare channels and the last column must weigh nothing
    packed[:, :, :-1, :3] = reference.pad(x, 3, "reflect").permute(0, 2, 3, 1)
    layer = stem_layer(weight, torch.float64)
    assert layer.weight.taps == (7, 1)
    assert close(product(packed, layer.weight.rows, layer.weight.taps, 5, 6).permute(0, 3, 1, 2), wanted)
    assert close(F.conv2d(packed.permute(0, 3, 1, 2), layer.library)[..., :6], wanted)


@pytest.mark.parametrize(
    ("k", "size", "block_n", "lines"), [(3, 7, 128, 5), (3, 7, 32, 1), (2, 5, 64, 4), (8, 8, 64, 1)]
)
def test_tail_weights_are_torch_s_layer(k: int, size: int, block_n: int, lines: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, size + lines - 1, 6 + size - 1, dtype=torch.float64)
    weight = torch.randn(k, 4, size, size, dtype=torch.float64)
    rows = output_tail.pack_tail_weight(weight, block_n, torch.float64)
    assert rows.shape == (block_n, (size - 1 + lines) * 4)
    columns = x[0].permute(2, 1, 0).flatten(1)  # pixels of a row, each with those below it
    products = (columns @ rows.T).view(-1, 8, block_n // 8)
    found = sum(products[j : j + 6, j, : lines * k] for j in range(size))
    assert close(found.view(6, lines, k).permute(2, 1, 0)[None], F.conv2d(x, weight))
    assert output_tail.rows_per_product(block_n, k) == lines
    assert not products[:, size:].any()
    assert not products[:, :, lines * k :].any()
