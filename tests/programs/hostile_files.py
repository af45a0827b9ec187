"""Files that would run code, or take memory and time far beyond their own size, are refused as weights, as --init and
as a state: nothing runs, and reading all of them takes little memory."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import resource
import struct
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from deblurgan.checkpoint import CheckpointError, load_generator
from deblurgan.config import train_config
from deblurgan.training.networks import build_generator
from deblurgan.training.run_folder import RunFolder

MB = 1e6
MOST = 500 * MB
ZEROS_CRC = 0x5B64C2B0  # of a gigabyte of them


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, canary = Path(name), Path(name) / "canary"
        pickle.loads(pickle.dumps(Call(os.system, f"mkdir {canary}")))
        assert canary.exists(), "the bait does not work"
        canary.rmdir()
        before, slowest, count = peak(), 0.0, 0
        for kind, data in hostile(canary):
            begun = time.monotonic()
            refuse(folder, kind, data)
            slowest = max(slowest, time.monotonic() - begun)
            assert not canary.exists(), f"{kind} ran code"
            grown, count = peak() - before, count + 1
            assert grown < MOST, f"{kind}: {grown / MB:.0f} MB"
    print(
        f"{count} hostile files: none ran, {(peak() - before) / MB:.0f} MB, at most {slowest:.2f} s for three readings"
    )


def refuse(folder: Path, kind: str, data: bytes) -> None:
    """Given as weights, as --init, and as the state of a run."""
    path, run = folder / "weights.pth", RunFolder(folder)
    path.write_bytes(data)
    run.state.write_bytes(data)
    ways: list[Callable[[], Any]] = [
        lambda: load_generator(path),
        lambda: build_generator(train_config(folder, init=path)),
        lambda: run.load_state(print),
    ]
    for way in ways:
        try:
            way()
        except CheckpointError as error:
            assert str(error).startswith(str(folder))
        else:
            raise AssertionError(f"{kind} was read")


class Call:
    """Calls a function where it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def hostile(canary: Path) -> Iterator[tuple[str, bytes]]:
    make = f"mkdir {canary}"
    code = f"__import__('os').mkdir({str(canary)!r})"
    yield "os.system", saved({"model.1.weight": Call(os.system, make)})
    yield "os.system, legacy", saved({"model.1.weight": Call(os.system, make)}, legacy=True)
    yield "eval", saved(Call(builtins.eval, code))
    yield "exec in a key", saved({Call(builtins.exec, code): 1})
    chain = Call(getattr, Call(__import__, "os"), "mkdir")
    yield "a chain of REDUCE", archive(pickle.dumps([chain, Call(os.mkdir, str(canary))], 2))
    yield "STACK_GLOBAL", archive(pickle.dumps(Call(os.mkdir, str(canary)), 4))
    yield "INST", archive(b"(S'" + make.encode() + b"'\nios\nsystem\n.")
    yield "BUILD of a module", archive(b"\x80\x02ctorch\nsave\n}X\x01\x00\x00\x00aK\x01sb.")
    yield "an extension", archive(b"\x80\x02\x82\x01.")
    yield "torch.load", archive(b"\x80\x02ctorch\nload\nX\x04\x00\x00\x00evil\x85R.")
    yield "a plain pickle", pickle.dumps(Call(os.system, make))
    yield "bytearray of 2 GB", archive(b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.")
    yield "a string of 2 GB", archive(b"\x80\x02X\xff\xff\xff\x7f.")
    yield (
        "lists in lists",
        archive(b"\x80\x02]q\x00" + b"".join(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 60)) + b"."),
    )
    yield "100,000 marks", archive(b"\x80\x02" + b"(" * 100_000 + b".")
    yield "an oversize shape", saved({"model.1.weight": torch.zeros(1).as_strided((2**40, 3, 7, 7), (0, 0, 0, 0))})
    yield "an oversize meta tensor", saved({"model.1.weight": torch.empty(2**40, device="meta")})
    yield "zip bomb, pickle", bomb(archive(b""), "archive/data.pkl")
    yield "zip bomb, tensor", bomb(saved({"model.1.weight": torch.zeros(64, 3, 7, 7)}), "archive/data/0")
    yield "TorchScript", script()
    yield ".pt2", exported()
    yield "header of 2^60 bytes", struct.pack("<Q", 2**60) + b'{"a":1}'
    yield "oversize safetensors", tensors({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    yield "brackets", tensors({"__metadata__": {"generator": "[" * 100_000}})
    layers = {"generator": json.dumps({"preset": "tiny", "blocks": 10**9}), "format": "other"}
    yield "10^9 layers", tensors({"__metadata__": layers})


def saved(content: Any, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def archive(data: bytes) -> bytes:
    """A pickle as torch's archives hold it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", "3\n")
    return buffer.getvalue()


def bomb(data: bytes, name: str) -> bytes:
    """The archive with a gigabyte of zeros, deflated to a few megabytes, for one of its files."""
    deflate = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    part = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    zeros = part * 2**10 + deflate.flush()
    buffer, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(data))
    assert name in source.namelist()
    with zipfile.ZipFile(buffer, "w") as file:
        for other in source.namelist():
            file.writestr(other, zeros if other == name else source.read(other))
        entry = file.getinfo(name)
        entry.compress_type, entry.file_size, entry.CRC = zipfile.ZIP_DEFLATED, 2**30, ZEROS_CRC
        buffer.seek(entry.header_offset)
        buffer.write(entry.FileHeader())
        buffer.seek(file.start_dir)
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def exported() -> bytes:
    """The files of what torch.export.save writes, whose own import takes long."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in (("archive_format", "pt2"), ("archive_version", "0"), ("models/model.json", "{}")):
            file.writestr(f"archive/{name}", data)
        file.writestr("archive/data/sample_inputs/model.pt", saved(((torch.zeros(1, 2),), {})))
        file.writestr("archive/data/weights/weight_0", bytes(16))
    return buffer.getvalue()


def tensors(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def peak() -> float:
    """Bytes of memory that the process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
