"""Validation: odd pictures stop nothing, and its failure loses nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import deblurgan
from conftest import texture
from deblurgan import checkpoint, images
from deblurgan.training import TrainingError
from small_training import SMALL


@pytest.mark.parametrize("odd", [texture(5, 40), np.zeros((40, 40, 3), np.uint8)], ids=["tiny", "black"])
def test_odd_validation_pictures_stop_nothing(odd: np.ndarray, photos: Path, tmp_path: Path) -> None:
    val = tmp_path / "val"
    val.mkdir()
    images.write(images.Picture(odd), val / "0.png")
    images.write(images.Picture(texture(40, 40)), val / "1.png")
    result = deblurgan.train(photos, out=tmp_path / "run", val=val, **{**SMALL, "val_pictures": 2})
    assert result.steps == 6 and 0 < result.best_psnr < 100


def test_failed_validation_still_saves(photos: Path, tmp_path: Path) -> None:
    val = tmp_path / "val"
    val.mkdir()
    (val / "0.png").write_bytes(b"no picture")
    with pytest.raises(TrainingError, match="no validation picture could be read"):
        deblurgan.train(photos, out=tmp_path / "run", val=val, **SMALL)
    assert checkpoint.load_tensors(tmp_path / "run" / "state.safetensors")[1]["step"] == "3"
