"""The disk is full, or fails, at random points of a training: a limit on files' sizes, /dev/full in place of the k-th
file, or an error at the k-th call of the system. Each time the command ends with code 4 and says where and how much
space is left, the states before still load, nothing is half written, and the same command goes on once there is room.
"""

from __future__ import annotations

import argparse
import errno
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from noise_photos import write_noise_photos

from deblurgan import checkpoint, cli, images
from deblurgan.images import files
from deblurgan.training.run_folder import RunFolder

CALLS = ("link", "rename", "replace", "fsync")
WORDS = "--preset tiny --width 4 --blocks 1 --crop 16 --batch-size 2 --blur-length 12 --precision fp32 --device cpu"
WORDS += " --log-every 2 --val-every 4 --val-pictures 1 --save-every 2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as with one thread, so that forks can train after a training
    draws = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_noise_photos(folder / "photos", 4)
        assert cli.main(words(folder, "before", 4)) == 0  # here, so that no child has to import what it takes
        for i in range(options.points):
            at_one_point(folder, draws, i)
    print(f"{options.points} points of a full disk: exit code 4 with path and space, the states before load, and go on")


def at_one_point(folder: Path, draws: random.Random, i: int) -> None:
    run = folder / f"run{i}"
    shutil.copytree(folder / "before", run)
    biggest = max(path.stat().st_size for path in run.glob("*.safetensors"))
    size, k, n = draws.randrange(200, biggest), draws.randrange(12), draws.randrange(40)
    kinds = [lambda: limit_size(size), lambda: fill_disk(k), lambda: fail_call(n)]
    code, said = ended(folder, run.name, 12, kinds[i % len(kinds)])
    assert code == 4, f"exit code {code}: {said}"
    assert f"{run.resolve()}" in said and said.rstrip().endswith("MB left"), said
    assert not list(run.rglob(".*.tmp"))
    found = RunFolder(run).load_state(print)
    assert found is not None and 4 <= found[1].step <= 12
    for path in run.glob("*.safetensors"):
        checkpoint.load_tensors(path)
    for path in (run / "samples").glob("*"):
        images.read(path)
    code, said = ended(folder, run.name, 12, lambda: None)
    assert code == 0 and (f"resumed at step {found[1].step}" in said), said


def words(folder: Path, name: str, steps: int) -> list[str]:
    return ["train", str(folder / "photos"), "--out", str(folder / name), "--steps", str(steps), *WORDS.split()]


def ended(folder: Path, name: str, steps: int, spoil: Callable[[], None]) -> tuple[int | None, str]:
    """Exit code and output of a training in a process of its own."""
    said, run = folder / "said", words(folder, name, steps)
    child = multiprocessing.get_context("fork").Process(target=command, args=(run, said, spoil))
    child.start()
    child.join(120)
    return child.exitcode, said.read_text()


def command(words: list[str], said: Path, spoil: Callable[[], None]) -> None:
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    spoil()
    os._exit(cli.main(words))


def limit_size(bytes_: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


def fill_disk(k: int) -> None:
    """From the k-th file on, the disk takes no byte."""
    write, count = files._write, 0

    def written(file: Any, data: bytes) -> None:
        nonlocal count
        count += 1
        if count <= k:
            return write(file, data)
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(data)

    files._write = written


def fail_call(k: int) -> None:
    """From the k-th call on that changes a folder, each raises an I/O error."""
    count = 0

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > k:
                raise OSError(errno.EIO, "Input/output error")
            return call(*args, **kwargs)

        return called

    for name in CALLS:
        setattr(os, name, failing(getattr(os, name)))


if __name__ == "__main__":
    main()
