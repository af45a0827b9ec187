"""Build csrc/ as the extension deblurgan._C; pyproject.toml says the rest.

Ninja drives the compilers: it rebuilds what a changed source, header or flag reaches, and nothing else. With a CUDA
toolkit nvcc compiles the .cu files and the CUDA runtime is linked in statically; without one the extension holds the
C++ code only. Torch is not needed to build, so build isolation stays cheap and one build serves every torch release.

Environment:
    DEBLURGAN_CUDA        0 leaves the CUDA code out, 1 fails without a toolkit; unset, the toolkit decides
    CUDA_HOME             the toolkit, where nvcc is not on PATH
    TORCH_CUDA_ARCH_LIST  the architectures, such as "8.0;9.0+PTX"; unset, every major one the toolkit knows
    CXX                   the C++ compiler, g++ unless set
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# No -march=native: a wheel must run on other machines. No contraction: CPU and GPU round alike. Without errno and traps
# sqrt and selections become vector code; results stay the same.
CXX_FLAGS = (
    "-std=c++17 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -fvisibility=hidden -fPIC -pthread"
    " -Wall -Wextra"
)
NVCC_FLAGS = (
    "-std=c++17 -O3 -fmad=false -lineinfo --threads=0 -DDEBLURGAN_WITH_CUDA"
    " -Xcompiler=-ffp-contract=off,-fvisibility=hidden,-fPIC,-pthread,-Wall"
)
OUTPUT_FLAGS = "-MMD -MF $out.d -c $in -o $out"
MAC = sys.platform == "darwin"
LINK_FLAGS = "-bundle -undefined dynamic_lookup" if MAC else "-shared -pthread -Wl,--exclude-libs,ALL"


def find_cuda_home() -> Path | None:
    """The CUDA toolkit's folder, or None to build without CUDA."""
    wanted = os.environ.get("DEBLURGAN_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise ValueError(f"DEBLURGAN_CUDA must be 0, 1 or unset, got {wanted!r}")
    if wanted == "0":
        return None
    nvcc = shutil.which("nvcc")
    guesses = [os.environ.get("CUDA_HOME"), nvcc and Path(nvcc).resolve().parents[1], "/usr/local/cuda"]
    for root in (Path(guess) for guess in guesses if guess):
        # nvcc on PATH may be a wrapper script outside the toolkit, so look for the headers too
        if (root / "bin/nvcc").exists() and (root / "include/cuda_runtime.h").exists():
            return root
    if wanted == "1":
        raise RuntimeError("DEBLURGAN_CUDA=1 but no CUDA toolkit: put nvcc on PATH or set CUDA_HOME")
    return None


def find_ninja() -> str:
    """The binary of the ninja package, or else the one on PATH."""
    try:
        from ninja import BIN_DIR
    except ImportError:
        BIN_DIR = ""
    found = shutil.which("ninja", path=BIN_DIR or None) or shutil.which("ninja")
    if not found:
        raise RuntimeError("building deblurgan._C needs ninja: run `pip install ninja`")
    return found


def find_compiler() -> str:
    """The command of the C++ compiler, options that CXX may hold included."""
    command = os.environ.get("CXX") or "g++"
    if not shutil.which(shlex.split(command)[0]):
        raise RuntimeError(f"building deblurgan._C needs a C++ compiler: there is no {command!r}, CXX names another")
    return command


def arch_flags() -> list[str]:
    """nvcc's flags for TORCH_CUDA_ARCH_LIST."""
    flags = []
    for arch in os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split():
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", arch):
            raise ValueError(f"TORCH_CUDA_ARCH_LIST must hold numbers such as '8.0;9.0+PTX', got {arch!r}")
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags or ["-arch=all-major"]


def ninja_path(path: str) -> str:
    return re.sub(r"([$ :])", r"$\1", path)


def quoted(word: str) -> str:
    """A word of a shell command in build.ninja."""
    return shlex.quote(word).replace("$", "$$")


def ninja_file(sources: list[str], target: str, folder: str, include_dirs: list[str], cuda_home: Path | None) -> str:
    """The text of a build.ninja that compiles `sources` into `folder` and links them as `target`."""
    cxx = find_compiler()
    rules = {"cxx": f"{cxx} {CXX_FLAGS} $extra {OUTPUT_FLAGS}"}
    # bindings.cpp alone sees Python, so build isolation's ever new pybind11 folder recompiles nothing else
    bindings = [quoted(f"-isystem{path}") for path in include_dirs]
    libraries = ""
    if cuda_home:
        rules["nvcc"] = f"{quoted(f'{cuda_home}/bin/nvcc')} {NVCC_FLAGS} {' '.join(arch_flags())} {OUTPUT_FLAGS}"
        bindings.append("-DDEBLURGAN_WITH_CUDA")
        folders = " ".join(quoted(f"-L{cuda_home}/{name}") for name in ("lib64", "lib"))
        libraries = f"{folders} -lcudart_static -ldl -lrt -lpthread"

    lines = [f"builddir = {ninja_path(folder)}"]
    for rule, command in rules.items():
        lines += [f"rule {rule}", f"  command = {command}", "  depfile = $out.d", "  deps = gcc"]
    lines += ["rule link", f"  command = {cxx} {LINK_FLAGS} $in -o $out {libraries}"]
    objects = []
    for source in sources:
        objects.append(ninja_path(f"{folder}/{source}.o"))
        lines.append(f"build {objects[-1]}: {'nvcc' if source.endswith('.cu') else 'cxx'} {ninja_path(source)}")
        if Path(source).name == "bindings.cpp":
            lines.append(f"  extra = {' '.join(bindings)}")
    lines.append(f"build {ninja_path(target)}: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


class BuildExt(build_ext):
    """build_ext with ninja in place of the one compiler, one file at a time."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True  # of the copies only, which would else keep a newer build of other flags
        if self.editable_mode:
            self.build_temp = "build/editable"  # pip's own is a new folder each time: everything would compile anew

    def build_extension(self, ext: Extension) -> None:
        cuda_home = find_cuda_home() if any(source.endswith(".cu") for source in ext.sources) else None
        sources = [source for source in ext.sources if cuda_home or not source.endswith(".cu")]
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        build_file = Path(self.build_temp, "build.ninja")
        build_file.parent.mkdir(parents=True, exist_ok=True)
        include_dirs = [pybind11.get_include(), *self.include_dirs]
        build_file.write_text(ninja_file(sources, str(target), self.build_temp, include_dirs, cuda_home))
        self.spawn([find_ninja(), "-f", str(build_file)])


if __name__ == "__main__":
    sources = sorted(str(path) for pattern in ("*.cpp", "*.cu") for path in Path("csrc").glob(pattern))
    setup(ext_modules=[Extension("deblurgan._C", sources)], cmdclass={"build_ext": BuildExt})
