"""What only compiled kernels show: NaN in PTX, and what makes Triton compile a kernel anew."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "programs"


def compiled(program: str) -> str:
    """What a program prints in a process whose kernels are compiled, not interpreted."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)  # for the benchmarks' package
    command = [sys.executable, PROGRAMS / program]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_compiled_kernels_keep_nan() -> None:
    """The interpreter's maximum keeps NaN in any case; PTX's only where asked to."""
    compiled("maxima_keep_nan.py")


def test_kernels_wait_before_they_touch_memory() -> None:
    """They start while the kernel before them still runs."""
    compiled("kernels_wait.py")


def test_no_size_of_a_picture_compiles_a_kernel_anew() -> None:
    """But for the rows of the caller's own picture: wide loads depend on whether they are aligned."""
    kernels, several = json.loads(compiled("sizes_compile_once.py"))
    source = "".join(path.read_text() for path in (ROOT / "kernels").glob("*.py"))
    assert kernels == sorted(re.findall(r"^def (\w+_kernel)\(", source, re.M))
    of_rows = {"output_tail_grad_kernel": ("g_row", "i_row", "w"), "output_tail_kernel": ("i_row", "o_row", "w")}
    assert several == [[kernel, name] for kernel, names in of_rows.items() for name in names]


def test_what_the_tuner_compiles_ahead_is_what_it_launches() -> None:
    """Triton's cache goes by a kernel's constants and by what its arguments divide by: both as on real memory."""
    same, different = json.loads(compiled("compiled_ahead.py"))
    assert not different
    assert same >= 2 * 20  # two presets of 20 pieces of work
