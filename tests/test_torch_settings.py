"""What the caller has set in torch changes neither training nor restored pictures, and is there again afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import deblurgan
from conftest import texture
from deblurgan import Deblurrer, Generator
from deblurgan.device import torch_defaults
from small_training import SMALL, same

Setting = Callable[[], AbstractContextManager[Any]]


@contextmanager
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)


SETTINGS: dict[str, Setting] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype": default_dtype,
    "default device": lambda: torch.device("meta"),
}


@pytest.fixture(params=SETTINGS)
def setting(request: pytest.FixtureRequest) -> Setting:
    return SETTINGS[request.param]


def test_they_change_no_training(setting: Setting, photos: Path, tmp_path: Path) -> None:
    options = {**SMALL, "steps": 3, "val_every": 3, "optimizer": "muon", "precision": "bf16"}
    wanted = deblurgan.train(photos, out=tmp_path / "a", **options)
    with setting():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        got = deblurgan.train(photos, out=tmp_path / "b", **options)
        assert modes == (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
    assert same(wanted.generator.state_dict(), got.generator.state_dict())
    assert got.best_psnr == wanted.best_psnr
    assert all(p.requires_grad and not p.is_inference() for p in got.generator.parameters())


def test_they_change_no_restored_picture(setting: Setting, small_generator: Generator) -> None:
    picture = texture(21, 30)
    wanted = Deblurrer(small_generator, device="cpu", dtype="fp32")(picture)
    with setting():
        deblurrer = Deblurrer(small_generator, device="cpu", dtype="fp32")
        assert (deblurrer(picture) == wanted).all()
    assert (deblurrer(picture) == wanted).all()
    assert not (wanted == picture).all()


def test_threads_that_overlap_leave_the_default_dtype_as_it_was() -> None:
    def first() -> None:
        with torch_defaults():
            inside.set()
            assert leave.wait(10)

    inside, leave = threading.Event(), threading.Event()
    with default_dtype():
        thread = threading.Thread(target=first)
        thread.start()
        assert inside.wait(10)
        with torch_defaults():
            leave.set()
            thread.join()
            assert torch.get_default_dtype() == torch.float32  # although the other is out
        assert torch.get_default_dtype() == torch.float64
