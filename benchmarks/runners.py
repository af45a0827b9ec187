"""The ways to run a generator: ours and those that it is compared with, all from the same fp32 weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deblurgan import Deblurrer
from deblurgan.generator.engine import Engine
from deblurgan.generator.graphs import CapturedCall
from deblurgan.nn import Generator

Call = Callable[[], Tensor]
OPENVINO_NAMES = {torch.float32: "f32", torch.bfloat16: "bf16"}


def plain(net: Generator, dtype: torch.dtype, channels_last: bool) -> Generator:
    """A copy that runs as plain torch."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    copy = deepcopy(net).to(dtype=dtype, memory_format=layout)
    copy.backend = "reference"
    return copy


def laid_out(x: Tensor, channels_last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def deblurrer(net: Generator, x: Tensor, *, compile: bool = False) -> Call:
    """The whole call on x, a picture in [-1, 1], brought to [0, 1] and back."""
    torch.compiler.reset()  # torch keeps few compiled forms of one function
    run, picture = Deblurrer(net, device=x.device, compile=compile), (x + 1) / 2
    run(picture)
    return lambda: run(picture) * 2 - 1


def eager(net: Generator, x: Tensor, *, dtype: torch.dtype, channels_last: bool = False) -> Call:
    run, picture = plain(net, dtype, channels_last), laid_out(x, channels_last)
    return lambda: run(picture)


def compiled(
    net: Generator,
    x: Tensor,
    *,
    dtype: torch.dtype,
    channels_last: bool = False,
    mode: str | None = None,
    freezing: bool = False,
) -> Call:
    import torch._inductor.config as inductor

    torch.compiler.reset()
    run = torch.compile(plain(net, dtype, channels_last), fullgraph=True, dynamic=False, mode=mode)
    picture = laid_out(x, channels_last)
    try:
        with inductor.patch(freezing=freezing):
            run(picture)
    except Exception as error:
        pytest.skip(f"torch.compile failed: {str(error).splitlines()[0]}")

    def call() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return run(picture).clone()  # a graph's own memory, which the next call writes over

    return call if mode else lambda: run(picture)


class Replayed:
    """A call in a CUDA graph, which the second one captures, with the picture copied in and out as the engine does."""

    def __init__(self, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.run, self.x = run, x
        self.calls = 0

    def __call__(self) -> Tensor:
        self.calls += 1
        if self.calls == 2:
            run = self.run
            captured = CapturedCall(lambda x, counter: (run(x),), self.x.clone(memory_format=torch.preserve_format))
            self.run = lambda x: captured(x)[0]
        return self.run(self.x)


def graphed(net: Generator, x: Tensor, *, dtype: torch.dtype) -> Call:
    return Replayed(plain(net, dtype, channels_last=True), laid_out(x, channels_last=True))


def engine(net: Generator, x: Tensor, *, dtype: torch.dtype) -> partial[Tensor]:
    """The engine's call on x."""
    net = deepcopy(net).to(dtype)
    why = net.why_reference(x)
    if why is not None:
        pytest.skip(f"no engine: {why}")
    return partial(Engine(net.spec, dict(net.named_parameters()), dtype=dtype), x)


def onnx_runtime(net: Generator, x: Tensor) -> Call:
    for package in ("onnxruntime", "onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "generator.onnx")
        torch.onnx.export(plain(net, torch.float32, False), (x,), file, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def openvino(net: Generator, x: Tensor, *, dtype: torch.dtype) -> Call:
    module: Any = pytest.importorskip("openvino", reason="openvino is not installed")
    model = module.convert_model(plain(net, torch.float32, False), example_input=x)
    options = {
        "INFERENCE_PRECISION_HINT": OPENVINO_NAMES[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = module.compile_model(model, "CPU", options).create_infer_request()
    return lambda: torch.from_numpy(request.infer({0: x.numpy()})[0])
