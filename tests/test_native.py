"""csrc/ under sanitizers, as programs of its own; the CUDA kernels too, on the host."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import deblurgan

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
LIBRARY = sorted(path for path in CSRC.glob("*.cpp") if path.name != "bindings.cpp")


@pytest.fixture
def compiler() -> str:
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        pytest.skip("no C++ compiler")
    return found


@pytest.mark.parametrize(
    ("program", "sanitizers"),
    [
        ("blur_sanitized", "address,undefined"),
        ("kernels_on_host", "address,undefined"),
        ("kernels_on_host", "thread"),  # finds what lacks a __syncthreads()
    ],
)
def test_native_program_is_clean(program: str, sanitizers: str, compiler: str, tmp_path: Path) -> None:
    flags = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-pthread", "-Wno-psabi"]
    flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    flags += ["-DDEBLURGAN_CLONES="]  # the sanitizers are not up yet when the loader picks a clone
    sources = [ROOT / "tests" / "native" / f"{program}.cpp", *LIBRARY]
    built = subprocess.run(
        [compiler, *flags, f"-I{CSRC}", *map(str, sources), "-o", str(tmp_path / program)],
        capture_output=True,
        text=True,
    )
    if any(library in built.stderr for library in ("libasan", "libubsan", "libtsan")):
        pytest.skip("the compiler has no sanitizer runtime")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([str(tmp_path / program)], capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stdout) == (0, "clean\n"), ran.stdout + ran.stderr


@pytest.mark.parametrize("header", sorted(path.name for path in CSRC.glob("*.h")))
def test_header_compiles_alone(header: str, compiler: str, tmp_path: Path) -> None:
    """A user may include just the part that is needed, and twice."""
    program = tmp_path / "alone.cpp"
    program.write_text(f'#include "{header}"\n#include "{header}"\n')
    flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}"]
    built = subprocess.run([compiler, *flags, str(program)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr


@pytest.mark.parametrize("path", sorted([*CSRC.glob("*.h"), *CSRC.glob("*.cuh")]), ids=lambda path: path.name)
def test_header_says_what_it_is(path: Path) -> None:
    comment, _, rest = path.read_text().partition("#pragma once\n")
    assert rest and comment.startswith("// ")
    assert all(line.startswith("//") for line in comment.splitlines())


def import_native(package: Path) -> None:
    """Imports a copy of ops/native.py in another folder."""
    copy = package / "ops" / "native.py"
    copy.parent.mkdir()
    shutil.copy(ROOT / "deblurgan" / "ops" / "native.py", copy)
    spec = importlib.util.spec_from_file_location("native_elsewhere", copy)
    assert spec and spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize(
    ("there", "why"),
    [
        ([], "is not built: run"),
        (
            ["_C.pyi", "_C.cpython-39-linux.so"],
            r"does not load in Python 3\.\d+\.\d+.* \(there is _C.cpython-39-linux.so",
        ),
    ],
    ids=["missing", "for another Python"],
)
def test_an_extension_that_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[str], why: str
) -> None:
    monkeypatch.delattr(deblurgan, "_C", raising=False)
    monkeypatch.setitem(sys.modules, "deblurgan._C", None)
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(ImportError, match=f"^deblurgan._C {why}"):
        import_native(tmp_path)
