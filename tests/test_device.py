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


CPU = torch.device("cpu")


def pretend(monkeypatch: pytest.MonkeyPatch, *instructions: str) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True), raising=False)


def test_automatic_precision_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "avx512_bf16")
    assert device.choose_precision("auto", CPU) == ("bf16", "this CPU computes in it")
    assert device.choose_precision("fp32", CPU) == ("fp32", "as asked for")
    pretend(monkeypatch, "avx512_f")
    assert device.choose_precision("auto", CPU) == ("fp32", "this CPU has no AMX or AVX512-BF16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert device.choose_precision("auto", torch.device("cuda")) == ("bf16", "this GPU computes in it")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    name, why = device.choose_precision("auto", torch.device("cuda"))
    assert (name, why) == ("fp32", "this GPU is older than compute capability 8.0")


@pytest.mark.parametrize(
    "precision, instructions, why",
    [
        ("bf16", "avx512_f", "this CPU has no AMX or AVX512-BF16"),
        ("fp16", "avx512_bf16", "this CPU has no AMX or AVX512-FP16"),
    ],
)
def test_a_half_type_that_the_cpu_imitates_is_warned_about(
    precision: str, instructions: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, instructions)
    message = f"^precision {precision} may be ten times slower than fp32: {why}; auto takes the faster$"
    with pytest.warns(UserWarning, match=message):
        assert device.pick_precision(precision, CPU) == precision


@pytest.mark.parametrize(
    "precision, instructions, name",
    [
        ("auto", "avx512_f", "fp32"),
        ("auto", "amx_bf16", "bf16"),
        ("fp32", "avx512_f", "fp32"),
        ("bf16", "amx_bf16", "bf16"),
        ("fp16", "avx512_fp16", "fp16"),
    ],
)
def test_what_the_cpu_computes_in_is_not(
    precision: str, instructions: str, name: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    pretend(monkeypatch, instructions)
    assert device.pick_precision(precision, CPU) == name
    assert not recwarn.list
