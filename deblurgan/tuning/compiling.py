"""Kernels compiled ahead, side by side in other processes, into Triton's cache on disk, where a launch finds them.

Such a process is `main`. It sees no GPU: it runs the work on tensors without memory, and each kernel that this would
launch is compiled for the arguments that it would get.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any

import torch

from deblurgan.kernels.config import ConvConfig
from deblurgan.tuning.problems import Size, Work, make_problem

MOST_PROCESSES = 16  # each holds several hundred MB


class AbsentGpu:
    """Triton's driver of a GPU that is not there."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # a number of its own for what Triton keeps by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling(arch: int, names: tuple[str, ...] | None = None) -> Iterator[dict[str, Any]]:
    """Within it a launch of a kernel compiles it, as for its arguments it would be, and ends there.

    With `names` other kernels' launches do nothing. Gives the kernels by hash.
    """
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    found: dict[str, Any] = {}
    run = JITFunction.run

    def compile_only(function: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        if names is None or function.__name__ in names:
            kernel = run(function, *args, grid=grid, warmup=True, **options)
            found[kernel.hash] = kernel

    driver.set_active(AbsentGpu(arch))
    JITFunction.run = compile_only
    try:
        yield found
    finally:
        JITFunction.run = run


class Compiler:
    """Processes that compile. Leaving it ends them, whatever they are at; so does the end of this process."""

    def __init__(self, capability: tuple[int, int], processes: int) -> None:
        self._arch = 10 * capability[0] + capability[1]
        self._threads = ThreadPoolExecutor(processes)
        self._all = [_start() for _ in range(processes)]
        self._idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        for process in self._all:
            self._idle.put(process)

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._all:
            process.kill()  # which ends its thread's wait for an answer
        self._threads.shutdown()
        for process in self._all:
            with process:  # closes its pipes
                process.kill()

    def submit(self, work: Work, config: ConvConfig | None) -> Future[None]:
        """Compiles what the work launches with a tiling, or with None beside cuDNN; in the order of the calls.

        The future raises RuntimeError where that fails.
        """
        return self._threads.submit(self._compile, work, config)

    def _compile(self, work: Work, config: ConvConfig | None) -> None:
        process = self._idle.get()
        answer = _ask(process, _request(work, config, self._arch))
        if not answer:  # a compiler may abort, which takes its process with it
            self._all.append(_start())
            self._idle.put(self._all[-1])
            raise RuntimeError(f"the compiler ended with exit code {process.wait()}")
        self._idle.put(process)
        if error := json.loads(answer):
            raise RuntimeError(error)


def processes_for(jobs: int) -> int:
    """How many to start: one for each CPU that this process may use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, jobs, MOST_PROCESSES))


def _start() -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.Popen(
        [sys.executable, "-c", "from deblurgan.tuning.compiling import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def _ask(process: subprocess.Popen[str], request: str) -> str:
    """The answer; "" where the process has ended."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("process must have pipes, got none")
    try:
        process.stdin.write(request)
        process.stdin.flush()
        return process.stdout.readline()
    except OSError:
        return ""


def _request(work: Work, config: ConvConfig | None, arch: int) -> str:
    dtype = str(work.dtype).removeprefix("torch.")
    return json.dumps([{**work._asdict(), "dtype": dtype}, config and asdict(config), arch]) + "\n"


def _compile(request: str) -> None:
    work, config, arch = json.loads(request)
    work |= {"size": Size(*work["size"]), "dtype": getattr(torch, work["dtype"])}
    with compiling(arch):
        make_problem(Work(**work), torch.device("meta")).run(config and ConvConfig(**config))


def main() -> None:
    """Answers each line of standard input, a request, with a line: the error in JSON, "" for none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends this process
    answers, sys.stdout = sys.stdout, sys.stderr
    for request in sys.stdin:
        error = ""
        try:
            _compile(request)
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        with suppress(BrokenPipeError):
            print(json.dumps(error), file=answers, flush=True)
