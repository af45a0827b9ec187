"""The usual definitions side by side, as benchmarks/conventions.py prints them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import texture
from deblurgan import images

skimage = pytest.importorskip("skimage.metrics", reason="the extra baselines")
from benchmarks import conventions  # noqa: E402


def test_definitions_differ_as_they_should(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        images.write(images.Picture(texture(161, 170, seed=seed)), path)
    got = conventions.measured(paths, 1, 0)
    ours = got["PSNR, RGB, rounded to 8 bits (ours)"]
    assert got[conventions.POOLED] < ours < got["PSNR, RGB, not rounded"] < got["PSNR, uint8 wrapped around"]


def test_a_grey_picture_s_volume_is_the_picture() -> None:
    """Inside flat borders, where it does not matter how they go on."""
    grey = [np.pad(texture(40, 50, seed=seed)[..., 0], 12, constant_values=128) for seed in (0, 1)]
    _, wanted = skimage.structural_similarity(
        *grey, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True
    )
    volumes = [torch.from_numpy(plane).expand(3, -1, -1).float() for plane in grey]
    assert conventions.volume_ssim(*volumes) == pytest.approx(wanted.mean(), abs=1e-10)


def test_wrapped_errors_are_modulo_256() -> None:
    """A difference of 16 has the square 256, which is 0: only that of 3, 9, is left."""
    a, b = torch.tensor([[[16.0, 3.0]]]), torch.zeros(1, 1, 2)
    assert conventions.wrapped_psnr(a, b) == pytest.approx(10 * np.log10(255**2 / 4.5))
