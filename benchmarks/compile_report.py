"""python -m benchmarks.compile_report [--json FILE]: what the compilers made of the CUDA kernels, no GPU needed.

Reads the machine code inside the built extension with cuobjdump, of a CUDA toolkit or of Triton.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from deblurgan import _C

Row = dict[str, Any]

USAGE = re.compile(
    r"Function (?P<name>\S+):\s+"
    r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+) LOCAL:(?P<local>\d+)"
)


def find_cuobjdump() -> str | None:
    """The tool on PATH, or the one that comes with Triton."""
    triton = importlib.util.find_spec("triton")
    bundled = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump" if triton and triton.origin else None
    return shutil.which("cuobjdump") or (str(bundled) if bundled and bundled.exists() else None)


def short_name(mangled: str) -> str:
    """apply_kernel<uint8> of _ZN9deblurgan12apply_kernelIhEEvNS_9ApplyArgsE."""
    name, pixel = re.fullmatch(r"_ZN9deblurgan\d+(\w+?_kernel)(?:I(\w+?)EEv)?.*", mangled).groups()  # type: ignore[union-attr]
    pixels = {"h": "uint8", "f": "float", "NS_4Half": "half", "NS_8BFloat16": "bfloat16"}
    return f"{name}<{pixels[pixel.removesuffix('E')]}>" if pixel else name


def rows() -> list[Row]:
    """One row a kernel and architecture in the built extension; a spill shows as stack or local memory."""
    tool = find_cuobjdump()
    if tool is None:
        raise FileNotFoundError("cuobjdump is not on PATH: install a CUDA toolkit or triton")
    dump = subprocess.run([tool, "-res-usage", _C.__file__], capture_output=True, text=True, check=True).stdout
    found = []
    for part in dump.split("Fatbin elf code:")[1:]:
        arch = re.search(r"arch = (sm_\w+)", part)
        if arch:
            found += [
                {
                    "kernel": short_name(use["name"]),
                    "arch": arch[1],
                    "config": "",
                    "registers": int(use["registers"]),
                    "spill_bytes": int(use["stack"]) + int(use["local"]),
                    "shared_bytes": int(use["shared"]),
                    "hgmma": 0,
                    "tma": 0,
                }
                for use in USAGE.finditer(part)
            ]
    return sorted(found, key=lambda row: (row["kernel"], int(row["arch"].removeprefix("sm_"))))


def table(found: list[Row]) -> str:
    """Registers a thread by kernel and architecture, as Markdown."""
    archs = sorted({row["arch"] for row in found}, key=lambda arch: int(arch.removeprefix("sm_")))
    cells = {(row["kernel"], row["arch"]): row for row in found}
    lines = ["| kernel | " + " | ".join(archs) + " | shared bytes | spilled bytes |", "|" + "---|" * (len(archs) + 3)]
    for kernel in sorted({row["kernel"] for row in found}):
        of_kernel = [cells[kernel, arch] for arch in archs]
        shared, spilled = (max(row[key] for row in of_kernel) for key in ("shared_bytes", "spill_bytes"))
        lines.append(f"| {kernel} | {' | '.join(str(row['registers']) for row in of_kernel)} | {shared} | {spilled} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = rows()
    if not found:
        print("the extension holds no CUDA code: build it with a CUDA toolkit", file=sys.stderr)
        return 1
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
