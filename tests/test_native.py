"""csrc/ as programs of its own: under sanitizers, the CUDA kernels too, on the host; and for another processor."""

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
FUSED = {"avx512", "avx2", "neon"}  # instruction sets that round a product and its sum once, and so give the same bytes


@pytest.fixture(scope="module")
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


def blur_hashes(compiler: str, folder: Path, *flags: str, emulator: tuple[str, ...] = ()) -> dict[str, str]:
    """By instruction set, a hash of what native/blur_bytes.cpp makes; it also holds the blur against direct sums."""
    program = folder / "blur_bytes"
    sources = [ROOT / "tests" / "native" / "blur_bytes.cpp", *LIBRARY]
    optimised = ["-std=c++17", "-O2", "-ffp-contract=off", "-pthread", "-Wno-psabi", *flags]
    command = [compiler, *optimised, f"-I{CSRC}", *map(str, sources), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([*emulator, str(program)], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return dict(line.split() for line in ran.stdout.splitlines())  # type: ignore[misc]


@pytest.fixture(scope="module")
def fused_hash(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The one hash of this CPU's instruction sets with fma."""
    hashes = blur_hashes(compiler, tmp_path_factory.mktemp("here"))
    fused = {hashes[name] for name in FUSED & hashes.keys()}
    if not fused:
        pytest.skip(f"this CPU has no fma, only {', '.join(hashes)}")
    assert len(fused) == 1, hashes
    return fused.pop()


def test_neon_gives_the_bytes_of_this_cpu(fused_hash: str, tmp_path: Path) -> None:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("no aarch64-linux-gnu-g++" if compiler is None else "no qemu-aarch64")
    assert blur_hashes(compiler, tmp_path, "-static", emulator=(emulator,)) == {"neon": fused_hash}


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
