"""Where kernels start before the one before them has ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels import launch

OFF, ON = {"PDL": False, "launch_pdl": False}, {"PDL": True, "launch_pdl": True}


class Driver:
    """Triton's and CUDA's driver of a GPU."""

    def __init__(self, arch: int, version: int) -> None:
        self.arch, self.version, self.active = arch, version, self

    def get_current_device(self) -> int:
        return 0

    def get_current_target(self) -> Any:
        return SimpleNamespace(arch=self.arch)

    def cuDriverGetVersion(self, version: Any) -> None:
        version._obj.value = self.version


@pytest.mark.parametrize(
    ("arch", "version", "wanted", "options"),
    [
        (80, 13000, None, OFF),
        (89, 13000, None, OFF),
        (90, 12020, None, OFF),
        (90, 12030, None, ON),
        (120, 13000, "1", ON),
        (90, 13000, "0", OFF),
    ],
)
def test_launches_overlap_where_gpu_and_driver_can(
    monkeypatch: pytest.MonkeyPatch, arch: int, version: int, wanted: str | None, options: dict[str, bool]
) -> None:
    driver = Driver(arch, version)
    monkeypatch.setattr(launch, "driver", driver)
    monkeypatch.setattr(launch.ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr(launch.knobs.runtime, "interpret", False)
    monkeypatch.delenv("DEBLURGAN_PDL", raising=False)
    if wanted is not None:
        monkeypatch.setenv("DEBLURGAN_PDL", wanted)
    launch._overlaps.cache_clear()
    assert launch.launch_early() == options
    launch._overlaps.cache_clear()


def test_the_interpreter_launches_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.knobs.runtime, "interpret", True)
    assert launch.launch_early() == OFF
