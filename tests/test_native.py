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
PROGRAMS = ROOT / "tests" / "native"
FLAGS = ["-std=c++17", "-ffp-contract=off", "-pthread", "-Wno-psabi", f"-I{CSRC}"]
OPTIMISED = ["-O3", "-fno-math-errno", "-fno-trapping-math"]
FUSED = {"avx512", "avx2", "neon"}  # instruction sets that round a product and its sum once, and so give the same bytes


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        pytest.skip("no C++ compiler")
    return found


def run(command: list[str], folder: Path) -> str:
    """What the command prints, run in that folder."""
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def compile_in(folder: Path, compiler: str, sources: list[Path], *flags: str) -> None:
    """Leaves an object file of each source in `folder`."""
    run([compiler, *FLAGS, *flags, "-c", *map(str, sources)], folder)


@pytest.mark.parametrize(
    ("sanitizers", "programs"),
    [
        ("address,undefined,float-cast-overflow", ["blur_sanitized", "kernels_on_host"]),
        ("thread", ["kernels_on_host"]),  # finds what lacks a __syncthreads()
    ],
)
def test_native_programs_are_clean(sanitizers: str, programs: list[str], compiler: str, tmp_path: Path) -> None:
    flags = ["-O1", "-g1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    flags += ["-DDEBLURGAN_CLONES="]  # the sanitizers are not up yet when the loader picks a clone
    compile_in(tmp_path, compiler, [PROGRAMS / f"{program}.cpp" for program in programs] + LIBRARY, *flags)
    for program in programs:
        objects = [f"{name}.o" for name in (program, *(source.stem for source in LIBRARY))]
        command = [compiler, "-pthread", *flags, *objects, "-o", program]
        linked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        if any(runtime in linked.stderr for runtime in ("libasan", "libubsan", "libtsan")):
            pytest.skip("the compiler has no sanitizer runtime")
        assert linked.returncode == 0, linked.stderr
        assert run([f"./{program}"], tmp_path) == "clean\n"


def hashes(folder: Path, compiler: str, *flags: str, emulator: tuple[str, ...] = ()) -> dict[str, str]:
    """By instruction set, a hash of what native/blur_bytes.cpp makes, linked of the object files in `folder`."""
    run([compiler, "-pthread", *flags, *sorted(path.name for path in folder.glob("*.o")), "-o", "blur_bytes"], folder)
    printed = run([*emulator, "./blur_bytes"], folder)
    return dict(line.split() for line in printed.splitlines())


@pytest.fixture(scope="module")
def baseline(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with blur_bytes and its object files, without clones."""
    folder = tmp_path_factory.mktemp("baseline")
    compile_in(folder, compiler, [PROGRAMS / "blur_bytes.cpp", *LIBRARY], *OPTIMISED, "-DDEBLURGAN_CLONES=")
    return folder


@pytest.fixture(scope="module")
def here(compiler: str, baseline: Path) -> dict[str, str]:
    return hashes(baseline, compiler)


@pytest.mark.parametrize("target", ["avx512f", "avx2"])
def test_a_clone_gives_the_bytes_of_the_baseline(
    target: str, compiler: str, baseline: Path, here: dict[str, str], tmp_path: Path
) -> None:
    if target.removesuffix("f") not in here:
        pytest.skip(f"this CPU has no {target}, only {', '.join(here)}")
    shutil.copytree(baseline, tmp_path, dirs_exist_ok=True)
    cloned = [source for source in LIBRARY if '#include "clones.h"' in source.read_text()]
    assert cloned
    compile_in(tmp_path, compiler, cloned, *OPTIMISED, f'-DDEBLURGAN_CLONES=__attribute__((target("{target}")))')
    assert hashes(tmp_path, compiler) == here


def test_neon_gives_the_bytes_of_this_cpu(here: dict[str, str], tmp_path: Path) -> None:
    fused = {here[name] for name in FUSED & here.keys()}
    compiler = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    for there, lacking in ((fused, "fma"), (compiler, "aarch64-linux-gnu-g++"), (emulator, "qemu-aarch64")):
        if not there:
            pytest.skip(f"no {lacking}")
    compile_in(tmp_path, str(compiler), [PROGRAMS / "blur_bytes.cpp", *LIBRARY], *OPTIMISED)
    neon = hashes(tmp_path, str(compiler), "-static", emulator=(str(emulator),))
    assert {name: {value} for name, value in neon.items()} == {"neon": fused}


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
