"""csrc/ under the address and undefined-behaviour sanitizers, as a program of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_blur_is_clean_under_the_sanitizers(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "blur_sanitized"
    flags = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-pthread", "-Wno-psabi"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags += ["-DDEBLURGAN_CLONES="]  # the sanitizers are not up yet when the loader picks a clone
    sources = [ROOT / "tests" / "native" / "blur_sanitized.cpp", ROOT / "csrc" / "blur_cpu.cpp"]
    built = subprocess.run(
        [compiler, *flags, f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", str(program)], capture_output=True, text=True
    )
    if "libasan" in built.stderr or "libubsan" in built.stderr:
        pytest.skip("the compiler has no sanitizer runtime")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stdout) == (0, "clean\n"), ran.stderr
