"""Pictures as the first convolution reads them."""

from __future__ import annotations

import pytest
import torch

from conftest import assert_matches
from deblurgan import reference
from deblurgan.kernels.config import (
    Border,
)
from kernel_cases import (
    each_dtype,
    nchw,
    normal,
    poison,
    untouched,
)

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels.pack_image import pack_image

pytestmark = pytest.mark.usefixtures("seeded")


PACKED = [torch.uint8, torch.float32, torch.float16]


@each_dtype
@pytest.mark.parametrize("source", PACKED, ids=str)
@pytest.mark.parametrize("border", ["reflect", "zero"])
def test_pack_image(border: reference.Border, source: torch.dtype, dtype: torch.dtype) -> None:
    n, h, w, width = 2, 4, 6, 3
    image = normal(n, 3, h + 2, 2 * w).clamp(-1, 1)
    if source == torch.uint8:
        image = (image + 1) * 127.5
    image = image.to(source)[:, :, 1:-1, ::2]
    memory = poison(n + 2, h + 2 * width, w + 2 * width + 1, 4, dtype=dtype)
    out = memory[1:-1]
    pack_image(image, out, border=Border(border, width))
    wide = image.double() / 127.5 - 1 if source == torch.uint8 else image.double()
    assert_matches(nchw(out)[:, :3, :, :-1], reference.pad(wide, width, border))
    inner = nchw(out)[:, :3, :, :-1]
    assert torch.equal(inner, reference.pad(inner[..., width:-width, width:-width], width, border))
    assert not out[..., 3:].any()
    assert not out[:, :, -1].any()
    assert untouched(memory, out)
    if source != torch.uint8:
        assert torch.equal(inner[..., width:-width, width:-width], image.to(dtype))


@pytest.mark.parametrize(
    ("n", "c", "h", "w", "width"), [(1, 3, 4, 250, 3), (1, 1, 2, 2, 1), (2, 4, 3, 5, 2), (1, 3, 5, 121, 3)], ids=str
)
def test_pack_image_of_any_size(n: int, c: int, h: int, w: int, width: int) -> None:
    image = normal(n, c, h, w).to(memory_format=torch.channels_last)
    out = poison(n, h + 2 * width, w + 2 * width + 1, 4)
    pack_image(image, out, border=Border("reflect", width))
    assert torch.equal(nchw(out)[:, :c, :, :-1], reference.pad(image, width, "reflect"))
    assert not out[..., c:].any()
    assert not out[:, :, -1].any()
