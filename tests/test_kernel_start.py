"""Triton that cannot start on a GPU is a reason like others: found by one tiny launch, said once, then known."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from conftest import KERNEL_DEVICE
from deblurgan import device

pytest.importorskip("triton", reason="triton is not installed")

NO_COMPILER = RuntimeError("Failed to find C compiler.\n  Please specify via CC" + 300 * " or otherwise")


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The devices on which a kernel was tried. They are two new GPUs; on number 0 Triton finds no compiler."""
    tried: list[int] = []

    def launch(index: int) -> None:
        tried.append(index)
        if index == 0:
            raise NO_COMPILER

    monkeypatch.setattr(device, "_launch_tiny_kernel", launch)
    monkeypatch.setattr(device, "_tried", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return tried


def test_an_error_is_the_reason_and_is_said_once(launches: list[int]) -> None:
    with pytest.warns(UserWarning, match=r"plain torch runs on cuda:0 .* Failed to find C compiler") as said:
        why = device.why_no_kernels(torch.device("cuda", 0))
    assert why is not None and len(said) == 1
    assert why.startswith("Triton cannot start: RuntimeError: Failed to find C compiler. Please specify via CC")
    assert "\n" not in why and len(why) <= 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert device.why_no_kernels(torch.device("cuda")) == why
        assert not device.kernels_available(torch.device("cuda:0"))
    assert launches == [0]


def test_each_device_is_tried_for_itself(launches: list[int]) -> None:
    assert device.why_no_kernels(torch.device("cuda:1")) is None
    with pytest.warns(UserWarning):
        assert device.why_no_kernels(torch.device("cuda:0")) is not None
    assert device.why_no_kernels(torch.device("cuda:1")) is None
    assert launches == [1, 0]


def test_nothing_is_tried_without_need(launches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda:0")
    for available in (True, False):
        with device.assume_kernels(available):
            assert device.kernels_available(cuda) == available
    assert not device.kernels_available(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert device.why_no_kernels(cuda) == "it needs a GPU of compute capability 8.0 or newer"
    assert launches == []


def test_a_capture_is_not_disturbed(launches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert device.why_no_kernels(cuda) is None and launches == []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with pytest.warns(UserWarning):
        why = device.why_no_kernels(cuda)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert why is not None and device.why_no_kernels(cuda) == why


def test_threads_try_once_and_all_know(launches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    launch, together = device._launch_tiny_kernel, threading.Event()

    def slow(index: int) -> None:
        together.wait(0.1)  # long enough for others to come, if they may
        launch(index)

    monkeypatch.setattr(device, "_launch_tiny_kernel", slow)
    with pytest.warns(UserWarning) as said, ThreadPoolExecutor(4) as pool:
        reasons = set(pool.map(device.why_no_kernels, 4 * [torch.device("cuda:0")]))
    assert len(reasons) == len(said) == 1 and reasons != {None}
    assert launches == [0]


@pytest.mark.skipif(KERNEL_DEVICE.type == "cuda", reason="in Triton's interpreter")
def test_the_tiny_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[torch.Tensor] = []
    empty: Callable[..., torch.Tensor] = torch.zeros

    def on_the_host(*size: int, dtype: torch.dtype, device: str) -> torch.Tensor:
        written.append(empty(*size, dtype=dtype))
        return written[-1]

    monkeypatch.setattr(torch, "empty", on_the_host)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    device._launch_tiny_kernel(0)
    assert [x.tolist() for x in written] == [[1]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_gpu_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_tried", {})
    assert device._trial(0) is None
