"""What a machine can do, and the reason where it cannot."""

from __future__ import annotations

import pytest
import torch

from deblurgan import device


def test_why_no_kernels_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(device, "_tried", {0: None})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert device.why_no_kernels(cuda) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert device.why_no_kernels(cuda) == "it needs a GPU of compute capability 8.0 or newer"
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    assert device.why_no_kernels(cuda) == "triton is not installed"
    assert device.why_no_kernels(torch.device("cpu")) == "it needs a CUDA device"


def test_assumed_kernels_count_on_any_device() -> None:
    cpu = torch.device("cpu")
    with device.assume_kernels():
        assert device.kernels_available(cpu) and device.why_no_kernels(cpu) is None
        with device.assume_kernels(False):
            assert device.why_no_kernels(cpu) == "they are switched off"
        assert device.kernels_available(cpu)
    assert not device.kernels_available(cpu)
