"""What csrc/ builds once for each instruction set gives the same bytes in all of them."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "csrc" / f"{name}.cpp" for name in ("apply", "convolve", "draws", "trajectory")]
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-pthread", "-Wno-psabi"]
TARGETS = ["avx512f", "avx2"] if platform.machine() == "x86_64" else []


def test_every_instruction_set_gives_the_same_bytes(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    clones = {"baseline": ""} | {target: f'__attribute__((target("{target}")))' for target in TARGETS}
    builds = {}
    for name, attribute in clones.items():
        flags = [*FLAGS, f"-DDEBLURGAN_CLONES={attribute}", f"-I{ROOT / 'csrc'}", "-o", str(tmp_path / name)]
        sources = [ROOT / "tests" / "native" / "clone_bytes.cpp", *SOURCES]
        builds[name] = subprocess.Popen([compiler, *flags, *map(str, sources)], stderr=subprocess.PIPE, text=True)
    for build in builds.values():
        _, errors = build.communicate()
        assert build.returncode == 0, errors
    hashes = {}
    for name in clones:
        ran = subprocess.run([str(tmp_path / name)], capture_output=True, text=True)
        if name == "baseline" or ran.returncode != -signal.SIGILL:  # unless this CPU lacks it
            assert ran.returncode == 0, f"{name}: {ran.stderr}"
            hashes[name] = ran.stdout
    assert set(hashes.values()) == {hashes["baseline"]}, hashes
