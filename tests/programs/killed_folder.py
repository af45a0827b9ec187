"""Restores a folder, is killed again and again at random moments, and goes on with --skip-existing: every file in the
output folder is whole at all times, and in the end none is missing or half done. Prints how often it was killed.

Arguments: how many kills, how many pictures; 20 and 60 if not given."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from deblurgan import images


def assert_whole(out: Path, sizes: dict[str, tuple[int, ...]]) -> None:
    """Every file that has its final name can be read and has its picture's size."""
    for path in out.rglob("*.*"):
        if not path.name.startswith("."):
            assert images.read(path).pixels.shape == sizes[path.name], path


def main(kills: int, pictures: int) -> None:
    draw, values = random.Random(0), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        sizes = {}
        for i in range(pictures):
            pixels = values.integers(0, 256, (draw.randint(200, 500), draw.randint(200, 500), 3), np.uint8)
            name = f"{i:03d}.{draw.choice(['jpg', 'png', 'tiff', 'webp'])}"
            images.write(images.Picture(pixels), source / name)
            sizes[name] = pixels.shape
        command = [sys.executable, "-m", "deblurgan", "deblur", str(source), "-o", str(out), "--skip-existing"]
        killed = 0
        while killed < kills:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            assert child.stdout is not None
            child.stdout.readline()  # the first picture of this run is done
            time.sleep(draw.random() * 0.3)
            if child.poll() is not None:
                break
            child.kill()
            child.communicate()
            killed += 1
            assert_whole(out, sizes)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        assert_whole(out, sizes)
        written = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        assert written == sorted(sizes), set(sizes) - set(written)
        left = [path.name for path in out.iterdir() if path.name.startswith(".")]
        print(f"killed {killed} times, {len(written)} of {pictures} whole, {len(left)} temporary files left")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ["20", "60"]))
