"""What a user installs: the files of the sdist and the wheel, the wheel away from the checkout, setup.py's choices."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import deblurgan

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    # No CUDA: nvcc's minutes would tell nothing about packaging
    environment = os.environ | {"DEBLURGAN_CUDA": "0"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made from a copy without build leftovers, so that a file missing from MANIFEST.in is missing here too."""
    folder = tmp_path_factory.mktemp("sdist")
    leftovers = shutil.ignore_patterns(".*", "build", "dist", "runs", "shared", "*.egg-info", "*.so", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=leftovers)
    hook = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", hook, cwd=folder / "source")
    (path,) = folder.glob("deblurgan-*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """Built without optimisation, whose time would tell nothing about packaging."""
    compiler = sdist.parent / "quick"
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX") or "g++"} "$@" -O0\n')
    compiler.chmod(0o755)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation")
    run("env", f"CXX={compiler}", *pip, "--wheel-dir", sdist.parent, sdist, cwd=sdist.parent)
    (path,) = sdist.parent.glob("deblurgan-*.whl")
    return path


def files_under(folder: str, *patterns: str) -> set[str]:
    found = {path for pattern in patterns for path in (ROOT / folder).glob(pattern)}
    return {path.relative_to(ROOT).as_posix() for path in found if path.is_file()}


PYTHON_FILES = files_under("deblurgan", "*.py", "*/*.py", "_C.pyi", "py.typed", "assets/*")
PYTHON_FILES -= files_under("deblurgan", "kernels/*")  # a link to kernels/
KERNELS = files_under("kernels", "*.py", "table.json")
HEADERS = {f"deblurgan/include/{Path(name).name}" for name in files_under("csrc", "*.h", "*.cuh")}


def test_every_package_folder_is_listed() -> None:
    """A folder that pyproject.toml does not list is missing from the wheel, though not from an editable install."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 brings tomllib")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {f"deblurgan.{path.parent.name}" for path in (ROOT / "deblurgan").glob("*/__init__.py")}
    assert set(listed) == {"deblurgan"} | folders


def test_a_program_compiles_against_the_headers(tmp_path: Path) -> None:
    program = ROOT / "tests" / "programs" / "include_headers.cpp"
    compiler = os.environ.get("CXX") or "g++"
    run(compiler, "-std=c++17", f"-I{deblurgan.get_include()}", program, "-o", tmp_path / "program", cwd=tmp_path)
    run(tmp_path / "program", cwd=tmp_path)


def test_kernels_folder_is_flat() -> None:
    """Only listed packages are installed, and only deblurgan.kernels is listed."""
    assert not [path for path in (ROOT / "kernels").rglob("*.py") if path.parent != ROOT / "kernels"]


def test_sdist_holds_what_a_build_and_a_test_run_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    expected = PYTHON_FILES | KERNELS | files_under("csrc", "*") | files_under("tests", "*.py")
    expected |= files_under(".", "README.md") | {"LICENSE", "NOTICE", "constraints.txt", "pyproject.toml", "setup.py"}
    assert {"csrc/bindings.cpp", "csrc/blur.h", "deblurgan/_C.pyi", "kernels/__init__.py"} <= expected
    assert expected - names == set()
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


def test_wheel_holds_what_a_user_needs_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    installed = {name for name in names if ".dist-info/" not in name}
    extension = f"deblurgan/_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert installed == PYTHON_FILES | HEADERS | {f"deblurgan/{name}" for name in KERNELS} | {extension}
    assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in names - installed}


def test_wheel_imports_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile")
    run(*pip, "--target", target, wheel, cwd=tmp_path)
    program = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import deblurgan, deblurgan._C, deblurgan.kernels\n"
        "print(deblurgan.__file__, deblurgan._C.__file__, deblurgan.kernels.__file__, sep='\\n')"
    )
    paths = run(sys.executable, "-I", "-c", program, cwd=tmp_path).splitlines()
    assert [Path(path).parent for path in paths] == [target / "deblurgan"] * 2 + [target / "deblurgan" / "kernels"]


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("DEBLURGAN_CUDA", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST", "CXX"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("deblurgan_setup", ROOT / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    """A folder that looks like a CUDA toolkit."""
    root = tmp_path / "cuda kit"
    for name in ("bin/nvcc", "include/cuda_runtime.h"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch(mode=0o755)
    return root


@pytest.mark.parametrize(
    ("archs", "flags"),
    [
        ("", ["-arch=all-major"]),
        ("9.0", ["-gencode=arch=compute_90,code=sm_90"]),
        ("8.0;9.0a", ["-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90a,code=sm_90a"]),
        ("12.0+PTX", ["-gencode=arch=compute_120,code=sm_120", "-gencode=arch=compute_120,code=compute_120"]),
    ],
)
def test_arch_flags(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, archs: str, flags: list[str]) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", archs)
    assert setup.arch_flags() == flags


def test_arch_flags_refuses_names(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;Hopper")
    with pytest.raises(ValueError, match=r"numbers such as '8\.0;9\.0\+PTX', got 'Hopper'"):
        setup.arch_flags()


def test_toolkit_is_found_by_cuda_home(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, toolkit: Path) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    assert setup.find_cuda_home() == toolkit
    monkeypatch.setenv("DEBLURGAN_CUDA", "0")
    assert setup.find_cuda_home() is None


def test_nvcc_outside_a_toolkit_is_passed_over(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, toolkit: Path
) -> None:
    (toolkit / "include/cuda_runtime.h").unlink()
    monkeypatch.setenv("PATH", str(toolkit / "bin"))
    assert setup.find_cuda_home() != toolkit


def test_deblurgan_cuda_takes_0_and_1_only(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBLURGAN_CUDA", "yes")
    with pytest.raises(ValueError, match="DEBLURGAN_CUDA must be 0, 1 or unset, got 'yes'"):
        setup.find_cuda_home()


def test_demanded_toolkit_must_be_there(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert setup.find_cuda_home() is None
    monkeypatch.setenv("DEBLURGAN_CUDA", "1")
    with pytest.raises(RuntimeError, match="DEBLURGAN_CUDA=1 but no CUDA toolkit"):
        setup.find_cuda_home()


def test_missing_ninja_is_named(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ninja", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="pip install ninja"):
        setup.find_ninja()


def test_missing_compiler_is_named(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++ -m64")
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler: there is no '/nowhere/c\+\+ -m64'"):
        setup.find_compiler()


def test_ninja_file_gives_cuda_to_the_bindings_only(setup: ModuleType, toolkit: Path) -> None:
    sources = ["csrc/bindings.cpp", "csrc/apply.cpp"]
    plain = setup.ninja_file(sources, "out/_C.so", "tmp", ["include"], None)
    assert "nvcc" not in plain and "DEBLURGAN_WITH_CUDA" not in plain and "cudart" not in plain
    both = setup.ninja_file([*sources, "csrc/blur_cuda.cu"], "out/_C.so", "tmp", ["include"], toolkit)
    lines = both.splitlines()
    # Ninja recompiles a file whose command changed: apply.cpp's stays
    assert lines[lines.index("build tmp/csrc/bindings.cpp.o: cxx csrc/bindings.cpp") + 1] == (
        "  extra = -isysteminclude -DDEBLURGAN_WITH_CUDA"
    )
    assert lines[lines.index("build tmp/csrc/apply.cpp.o: cxx csrc/apply.cpp") + 1].startswith("build ")
    assert next(line for line in lines if "command = g++" in line) in plain
    assert "build tmp/csrc/blur_cuda.cu.o: nvcc csrc/blur_cuda.cu" in lines
    assert f"'{toolkit}/bin/nvcc'" in both and "-lcudart_static" in both
