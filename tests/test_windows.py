"""Crop windows: the reference's, evenly spread, and the blur of a window is the window of the blur."""

from __future__ import annotations

import pytest
import torch
from blur_cases import (
    DTYPES,
    ONE,
    picture,
    same,
)
from scipy.stats import chisquare

from conftest import assert_matches
from deblurgan import ops, reference
from deblurgan.blur import (
    MotionBlur,
    apply_psf,
    random_windows,
)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(
    ("full", "size"), [((9, 14), (5, 8)), ((720, 1280), (256, 256)), ((31, 7), (31, 7)), ((2**31 - 1, 3), (1, 2))]
)
def test_windows_are_the_reference_s(
    full: tuple[int, int], size: tuple[int, int], flip: bool, device: torch.device
) -> None:
    for seed, first in ((0, 0), (5, 2**33), (2**62, 2**63 - 2)):
        wanted = reference.random_windows(500, picture=full, size=size, flip=flip, seed=seed, first=first)
        got = random_windows(500, picture=full, size=size, flip=flip, seed=seed, first=first, device=device)
        assert same(got.cpu(), wanted)
        again = ops.random_windows(500, picture=full, size=size, flip=flip, seed=seed, first=first, device=device)
        assert same(got, again)


def test_windows_cover_all_places_evenly_and_half_are_mirrored() -> None:
    top, left, mirrored = random_windows(35_000, picture=(9, 14), size=(5, 8), seed=1).unbind(1)
    counts = torch.bincount((top * 7 + left) * 2 + mirrored, minlength=70)
    assert (top.min(), top.max(), left.min(), left.max()) == (0, 4, 0, 6)
    assert chisquare(counts.numpy()).pvalue > 0.001
    assert chisquare(torch.bincount(mirrored).numpy()).pvalue > 0.001


@pytest.mark.parametrize("gamma", [1.0, 2.2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_window_of_the_blur_is_the_blur_s_window(dtype: torch.dtype, gamma: float, device: torch.device) -> None:
    full, size = (40, 150), (33, 70)
    x, psf = picture(6, 3, *full, dtype=dtype).to(device), MotionBlur(length=20.0).psf(6, seed=0, device=device)
    windows = random_windows(6, picture=full, size=size, seed=2, device=device)
    whole = apply_psf(x, psf, gamma=gamma)
    parts = [y[:, t : t + size[0], q : q + size[1]] for y, (t, q, _) in zip(whole, windows.tolist(), strict=True)]
    wanted = torch.stack([p.flip(-1) if flip else p for p, flip in zip(parts, windows[:, 2].tolist(), strict=True)])
    assert windows[:, 2].unique().tolist() == [0, 1]
    got = apply_psf(x, psf, gamma=gamma, windows=windows, size=size)
    if dtype == torch.uint8:  # sums may be taken in another order, and so a half be rounded the other way
        assert (got.int() - wanted.int()).abs().max() <= 1
        assert (got == wanted).double().mean() > 0.999
    else:
        assert_matches(got, wanted)


@pytest.mark.parametrize("c", [1, 2, 3, 4, 5])
def test_a_mirrored_crop_is_the_crop_turned_round(c: int, device: torch.device) -> None:
    x, windows = picture(1, c, 5, 37).to(device), torch.tensor([[0, 0, 1]], device=device)
    for layout in (torch.contiguous_format, torch.channels_last):
        got = apply_psf(x.contiguous(memory_format=layout), ONE.to(device), windows=windows, size=(5, 37))
        assert same(got, x.flip(-1))
