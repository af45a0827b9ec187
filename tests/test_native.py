"""csrc/ under sanitizers, as programs of its own; the CUDA kernels too, on the host."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = ("blur_cpu", "convolve")


@pytest.mark.parametrize(
    ("program", "sanitizers"),
    [
        ("blur_sanitized", "address,undefined"),
        ("kernels_on_host", "address,undefined"),
        ("kernels_on_host", "thread"),  # finds what lacks a __syncthreads()
    ],
)
def test_native_program_is_clean(program: str, sanitizers: str, tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    flags = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-pthread", "-Wno-psabi"]
    flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    flags += ["-DDEBLURGAN_CLONES="]  # the sanitizers are not up yet when the loader picks a clone
    sources = [ROOT / "tests" / "native" / f"{program}.cpp", *(ROOT / "csrc" / f"{name}.cpp" for name in LIBRARY)]
    built = subprocess.run(
        [compiler, *flags, f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", str(tmp_path / program)],
        capture_output=True,
        text=True,
    )
    if any(library in built.stderr for library in ("libasan", "libubsan", "libtsan")):
        pytest.skip("the compiler has no sanitizer runtime")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([str(tmp_path / program)], capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stdout) == (0, "clean\n"), ran.stdout + ran.stderr
