"""Networks for other runtimes: ONNX and torch.export's .pt2, compared with the network before their file is written."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from deblurgan import images
from deblurgan.arguments import require_kind
from deblurgan.config import as_path
from deblurgan.device import torch_defaults
from deblurgan.nn import Generator

TOLERANCE = 1e-4  # of restored pictures in [-1, 1], absolute: rounding alone, since both compute in fp32
_COMPARED = ((1, 12, 16), (2, 18, 10))  # pictures, and their sides in multiples of what the network takes


class _UnitRange(nn.Module):
    """The network on pictures in [0, 1]."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        return (self.generator(x * 2 - 1) + 1) / 2


@torch_defaults()
def export_generator(generator: Generator, path: Path | str, *, unit_range: bool = False) -> float:
    """Writes the network in fp32 for other runtimes: as ONNX where the path ends in .onnx, as a torch.export program
    where it ends in .pt2; an older file is replaced, whole or not at all.

    It takes "blurred" [n, 3, h, w] and gives "restored", alike, both in [-1, 1], or in [0, 1] with `unit_range`. n, h
    and w are dynamic; h and w must be multiples of 4 and at least 8 (more for a network of more downsamplings), as the
    file's metadata say: a .pt2 refuses other sizes; an ONNX runtime fails on them, but for some below 8.

    Returns the largest difference from the network on pictures of two sizes. Raises RuntimeError, and writes nothing,
    where it is above 1e-4; ValueError for another suffix; ImportError where ONNX lacks onnxscript and onnxruntime.
    """
    require_kind("generator", generator, Generator)
    path = as_path("path", path)
    writers = {".onnx": _onnx, ".pt2": _pt2}
    if path.suffix not in writers:
        raise ValueError(f"path must end in {' or '.join(writers)}, got {path}")
    network = _network(generator, unit_range)
    multiple = generator.spec.size_multiple
    least = max(Generator.MIN_SIZE, 2 * multiple)  # one pixel cannot be mirrored
    metadata = {
        "generator": json.dumps(generator.config(), sort_keys=True),
        "picture_range": "[0, 1]" if unit_range else "[-1, 1]",
        "side_multiple": str(multiple),
        "side_minimum": str(least),
    }
    data, run = writers[path.suffix](_program(network, multiple, least), metadata)
    differences = [_difference(network, run, n, h * multiple, w * multiple) for n, h, w in _COMPARED]
    if not all(difference <= TOLERANCE for difference in differences):  # NaN is not
        raise RuntimeError(f"{path}: not written, its pictures are up to {max(differences):.2g} from the network's")
    path.parent.mkdir(parents=True, exist_ok=True)
    images.replace_file(path, data)
    return max(differences)


def _network(generator: Generator, unit_range: bool) -> nn.Module:
    """A copy in plain torch, fp32 on the CPU."""
    copy = Generator(**generator.config())
    copy.load_state_dict(generator.state_dict())
    copy.backend = "reference"
    network = _UnitRange(copy) if unit_range else copy
    return network.eval().requires_grad_(False)


def _program(network: nn.Module, multiple: int, least: int) -> ExportedProgram:
    sides = {axis: multiple * Dim(name, min=least // multiple) for axis, name in ((2, "h"), (3, "w"))}
    example = torch.zeros(2, 3, 4 * multiple, 5 * multiple)
    program = export(network, (example,), dynamic_shapes=({0: Dim("n", min=1), **sides},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names the files of this machine
    return program


def _pt2(program: ExportedProgram, metadata: dict[str, str]) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(metadata)})
    return buffer.getvalue(), program.module()


def _onnx(program: ExportedProgram, metadata: dict[str, str]) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # the exporter needs it
    except ImportError as error:
        raise ImportError(f"ONNX needs {error.name}: pip install 'deblurgan[export]'") from error
    with _quiet():
        exported = torch.onnx.export(program, input_names=["blurred"], output_names=["restored"])
    model = exported.model_proto  # type: ignore[union-attr]  # None is only of the older exporter
    onnx.helper.set_model_props(model, metadata)
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in ((0, "n"), (2, "h"), (3, "w")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.value_info[:]  # which has other names for the same sides
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, lambda x: torch.from_numpy(session.run(None, {"blurred": x.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's prints, and its warnings of what is no concern of ours."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _difference(reference: nn.Module, run: Callable[[Tensor], Tensor], n: int, rows: int, columns: int) -> float:
    """The largest difference on random pictures [n, 3, rows, columns]."""
    x = torch.rand(n, 3, rows, columns, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((run(x) - reference(x)).abs().max())
