"""Reads damaged picture files and writes what is in them: COUNT mutants of small files, drawn by SEED. Prints what
became of them, and the number of each that crashed, hung or raised something else; exits with 1 where there is any.

Usage: mutate_pictures.py COUNT [SEED]
"""

from __future__ import annotations

import io
import random
import resource
import select
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from PIL import Image, features

from deblurgan import images

SECONDS, MEMORY = 5, 3 << 30  # for a file; of address space
MAX_PIXELS = 20_000_000
SUFFIXES = (".jpg", ".png", ".tif", ".webp", ".bmp")


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def sources() -> list[bytes]:
    """A small file of each kind."""
    y, x = np.mgrid[0:24, 0:33]
    pixels = np.stack([7 * x, 9 * y, 255 - 4 * x - 3 * y], axis=2).astype(np.uint8)
    small, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    about = {"exif": exif.tobytes(), "icc_profile": bytes(300)}
    deep = images.Picture(pixels.astype(np.uint16) * 257, alpha=pixels[..., 0].astype(np.uint16) * 250)
    files = [
        encoded(small, "JPEG", dpi=(300, 300), comment=b"a comment", **about),
        encoded(small, "JPEG", progressive=True),
        encoded(small.convert("L"), "JPEG", restart_marker_blocks=1),
        encoded(small, "MPO", save_all=True, append_images=[small]),
        encoded(small.convert("RGBA"), "PNG", dpi=(300, 300), **about),
        encoded(small.quantize(8), "PNG", transparency=1),
        images.encode(deep, "a.png")[0],
        encoded(small, "WEBP", **about),
        encoded(small.convert("RGBA"), "WEBP", lossless=True),
        encoded(small, "TIFF", **about),
        encoded(small, "TIFF", compression="tiff_lzw"),
        encoded(small.convert("L"), "TIFF", compression="tiff_adobe_deflate"),
        images.encode(deep, "a.tif")[0],
        encoded(small, "BMP"),
        encoded(small.quantize(8), "GIF"),
    ]
    if "avif" in features.modules and features.check("avif"):
        files.append(encoded(small, "AVIF", **about))
    try:
        import pillow_heif
    except ImportError:
        return files
    buffer = io.BytesIO()
    pillow_heif.from_pillow(small).save(buffer)
    return [*files, buffer.getvalue()]


def mutant(source: bytes, dice: random.Random) -> bytes:
    """The file with some bytes changed, half of the time near its start, where the structure is; some are cut too."""
    data = bytearray(source)
    span = min(len(data), 200) if dice.random() < 0.5 else len(data)
    for _ in range(dice.randint(0, 8)):
        data[dice.randrange(span)] = dice.choice([0, 1, 127, 128, 255, dice.randrange(256)])
    if dice.random() < 0.25:
        del data[dice.randrange(len(data)) :]
    return with_true_checksums(data) if source.startswith(b"\x89PNG") else bytes(data)


def with_true_checksums(png: bytearray) -> bytes:
    """Checksums would stop nearly all damage at the door."""
    out, at = bytes(png[:8]), 8
    while at + 12 <= len(png):
        (size,) = struct.unpack_from(">I", png, at)
        content = bytes(png[at + 4 : at + 8 + size])
        out += struct.pack(">I", size) + content + struct.pack(">I", zlib.crc32(content))
        at += 12 + size
    return out + png[at:]


def outcome(data: bytes, suffix: str) -> str:
    """What became of a file; a picture in it must also be written."""
    try:
        images.encode(images.read(io.BytesIO(data), max_pixels=MAX_PIXELS), f"a{suffix}")
    except images.ImageError:
        return "refused"
    except MemoryError:
        return "out of memory"
    except BaseException as error:
        return f"raised {error!r}"
    return "decoded"


def work(seed: int, first: int, count: int) -> None:
    """The child: reads mutants and prints a line after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    files = sources()
    for i in range(first, count):
        data, suffix = mutant(files[i % len(files)], random.Random(f"{seed} {i}")), SUFFIXES[i % len(SUFFIXES)]
        print(i, outcome(data, suffix), flush=True)


def lines(seed: int, count: int) -> Iterator[tuple[int, str]]:
    """What became of each mutant. A child that crashes or hangs is followed by another one."""
    first = 0
    while first < count:
        command = [sys.executable, "-W", "ignore", __file__, "child", str(seed), str(first), str(count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as child:
            assert child.stdout is not None
            patience = 60  # until it has started
            while first < count:
                line = next_line(child.stdout, patience)
                if not line:
                    child.kill()
                    yield first, f"hung or crashed ({child.wait()})"
                    first += 1
                    break
                number, _, became = line.decode().rstrip().partition(" ")
                first, patience = int(number) + 1, SECONDS
                yield int(number), became


def next_line(stream: IO[bytes], seconds: float) -> bytes:
    """No bytes where the stream has ended or says nothing for so long."""
    return stream.readline() if select.select([stream], [], [], seconds)[0] else b""


def main() -> int:
    if sys.argv[1] == "child":
        work(*map(int, sys.argv[2:]))
        return 0
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    counts, bad = Counter[str](), 0
    for number, became in lines(seed, count):
        known = became in ("decoded", "refused", "out of memory")
        counts[became if known else "other"] += 1
        bad += not known
        if not known:
            print(f"mutant {number} of seed {seed}: {became}")
    print(", ".join(f"{name} {n}" for name, n in counts.most_common()))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
