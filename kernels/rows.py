"""Tables of measured tilings as files: the one that ships, and the user's own, which `deblurgan tune` writes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deblurgan.kernels.config import ConvConfig, ConvShape, Gpu
from deblurgan.kernels.limits import why_not

HALF_OR_SINGLE, NARROW = (torch.float16, torch.bfloat16, torch.float32), (torch.int8, torch.float8_e4m3fn)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*HALF_OR_SINGLE, *NARROW)}  # by name
LARGEST = 2**24  # bytes of a table; a row has about 300
SHIPPED = Path(__file__).with_name("table.json")


class Row(NamedTuple):
    """A measurement: what was the fastest for a convolution, on a GPU, with some software."""

    gpu: Gpu
    shape: ConvShape
    config: ConvConfig | None  # None: cuDNN
    software: str = ""  # that of a user's table, see `software`; "" is any

    @property
    def key(self) -> tuple[Gpu, ConvShape, str]:
        """What a newer measurement replaces it by."""
        return self.gpu, self.shape, self.software


def user_table() -> Path:
    """Where this user's measurements are kept: $DEBLURGAN_TABLE, else a file in the user's cache folder. A user without
    a home folder has one of the name "~", where there is none."""
    named = os.environ.get("DEBLURGAN_TABLE")
    if named:
        return Path(os.path.expanduser(named))
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or ("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    return Path(os.path.expanduser(cache)) / "deblurgan" / "table.json"


def user_rows() -> list[Row]:
    """Those of the user's table that can be launched. What is left out, the whole of a file that is no table, is told
    in a warning."""
    path = user_table()
    try:
        rows = read(path)
    except FileNotFoundError:
        if os.environ.get("DEBLURGAN_TABLE"):
            warnings.warn(f"DEBLURGAN_TABLE names {path}, which is not there: run `deblurgan tune`", stacklevel=2)
        return []
    except (OSError, ValueError) as error:
        warnings.warn(f"the table of tilings {path} is left out: {error}", stacklevel=2)
        return []
    lacks = [row.config and why_not(row.config, row.shape, row.gpu.capability) for row in rows]
    found = [row for row, lack in zip(rows, lacks, strict=True) if not lack]
    if len(found) < len(rows):
        count, why = len(rows) - len(found), next(filter(None, lacks))
        warnings.warn(f"of the table of tilings {path} {count} rows are left out: {why}", stacklevel=2)
    return found


def read(path: Path) -> list[Row]:
    """The rows of a table. Raises OSError, or ValueError for a file that is not one."""
    with path.open("rb") as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"it must have at most {LARGEST} bytes")
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise ValueError('it must hold {"rows": [...]}')
    return [_row(entry) for entry in rows]


def write(path: Path, rows: Iterable[Row]) -> None:
    """One row a line, sorted. The file is whole or as it was."""
    entries = sorted((_entry(row) for row in rows), key=lambda entry: json.dumps(entry))
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(f'{{"rows": [\n{lines}\n]}}\n' if entries else '{"rows": []}\n')
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def merge(path: Path, rows: Iterable[Row]) -> list[Row]:
    """Adds rows to a table, which need not be there, in place of those of the same keys; returns all.

    Others that do so at the same time lose nothing, on file systems with locks. Raises OSError, or ValueError for a
    file that is no table; it stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path.parent):
        before = read(path) if path.exists() else []
        merged = {row.key: row for row in (*before, *rows)}
        write(path, merged.values())
    return list(merged.values())


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Waits until no other process holds the folder, then holds it."""
    import fcntl  # which Windows has not, and no tuning either

    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _entry(row: Row) -> dict[str, Any]:
    entry = {**row.gpu._asdict(), **row.shape._asdict(), "dtype": str(row.shape.dtype).removeprefix("torch.")}
    entry |= {"config": asdict(row.config) if row.config else None}
    return entry | ({"software": row.software} if row.software else {})


def _row(entry: Any) -> Row:
    """Raises ValueError for what `_entry` cannot have made; whether the tiling can be launched is not looked at."""
    try:
        major, minor = entry["capability"]
        gpu = Gpu(entry["name"], (major, minor), entry["sms"])
        shape = ConvShape(entry["kind"], entry["c_in"], entry["c_out"], entry["pixels"], DTYPES[entry["dtype"]])
        config = None if entry["config"] is None else ConvConfig(**entry["config"])
        row = Row(gpu, shape, config, entry.get("software", ""))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a row must be as `deblurgan tune` writes it, got {str(entry)[:400]}: {error!r}") from error
    texts, counts = (gpu.name, shape.kind, row.software), (major, gpu.sms, *shape[1:4])
    right = all(type(text) is str for text in texts) and all(_is_count(number) for number in counts)
    if not right or type(minor) is not int:
        raise ValueError(f"a row must be as `deblurgan tune` writes it, got {str(entry)[:400]}")
    if config is None and (shape.kind == "head" or shape.dtype.itemsize == 1):
        raise ValueError(f"a row of the head or of 8 bits must have a config, got {str(entry)[:400]}")
    return row


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 < number < 2**53


@lru_cache
def software() -> str:
    """What measurements depend on beside the GPU: torch, Triton, cuDNN and our kernels."""
    parts = [f"torch {torch.__version__}", f"triton {_version('triton')}"]
    parts.append(f"cudnn {torch.backends.cudnn.version()}")
    return ", ".join([*parts, f"kernels {_kernels_hash()}"])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _kernels_hash() -> str:
    """Of the sources that tilings reach."""
    found = hashlib.sha256()
    for name in ("conv_stats.py", "conv_wgrad.py", "output_tail.py"):
        found.update(Path(__file__).with_name(name).read_bytes())
    return found.hexdigest()[:12]
