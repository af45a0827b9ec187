"""Tables of measured tilings as files: the one that ships, and the user's own, which `deblurgan tune` writes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deblurgan.kernels.config import ConvConfig, ConvShape, Gpu

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
    """Where this user's measurements are kept: $DEBLURGAN_TABLE, else a file in the user's cache folder."""
    named = os.environ.get("DEBLURGAN_TABLE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or ("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    return Path(cache).expanduser() / "deblurgan" / "table.json"


def user_rows() -> list[Row]:
    """Those of the user's table; a file that is not one is left out with a warning."""
    path = user_table()
    try:
        return read(path)
    except FileNotFoundError:
        if os.environ.get("DEBLURGAN_TABLE"):
            warnings.warn(f"DEBLURGAN_TABLE names {path}, which is not there: run `deblurgan tune`", stacklevel=2)
    except (OSError, ValueError) as error:
        warnings.warn(f"the table of tilings {path} is left out: {error}", stacklevel=2)
    return []


def read(path: Path) -> list[Row]:
    """The rows of a table. Raises OSError, or ValueError for a file that is not one."""
    content = json.loads(path.read_bytes())
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


def _entry(row: Row) -> dict[str, Any]:
    entry = {**row.gpu._asdict(), **row.shape._asdict(), "dtype": str(row.shape.dtype).removeprefix("torch.")}
    entry |= {"config": asdict(row.config) if row.config else None}
    return entry | ({"software": row.software} if row.software else {})


def _row(entry: Any) -> Row:
    """Raises ValueError for what `_entry` cannot have made."""
    try:
        name, capability, sms = str(entry["name"]), tuple(map(int, entry["capability"])), int(entry["sms"])
        major, minor = capability
        dtype = getattr(torch, entry["dtype"])
        shape = ConvShape(str(entry["kind"]), int(entry["c_in"]), int(entry["c_out"]), int(entry["pixels"]), dtype)
        config = None if entry["config"] is None else ConvConfig(**entry["config"])
        software = str(entry.get("software", ""))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a row must be as `deblurgan tune` writes it, got {entry}: {error!r}") from error
    if not isinstance(dtype, torch.dtype) or min(sms, *shape[1:4]) < 1 or not (config is None or _launches(config)):
        raise ValueError(f"a row must be as `deblurgan tune` writes it, got {entry}")
    if config is None and shape.kind == "head":
        raise ValueError(f"the head's row must have a config, got {entry}")
    return Row(Gpu(name, (major, minor), sms), shape, config, software)


def _launches(config: ConvConfig) -> bool:
    """Whether Triton can take it: powers of two, as large as tensor cores and programs are."""

    def power_of_two(value: Any, low: int, high: int) -> bool:
        return type(value) is int and low <= value <= high and value & (value - 1) == 0

    blocks = (config.block_m, config.block_n, config.block_k)
    stages = type(config.stages) is int and 1 <= config.stages <= 8
    return (
        all(power_of_two(side, 16, 256) for side in blocks)
        and power_of_two(config.warps, 1, 16)
        and stages
        and config.form in ("pointer", "tma", "pairs")
        and config.accumulate in ("fp32", "fp16")
    )


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
