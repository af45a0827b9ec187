"""Pictures that come from standard input or go to standard output, by way of files that vanish."""

from __future__ import annotations

import codecs
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# How files begin, and the suffix of their format
_BEGINNINGS = {
    rb"\xff\xd8\xff": ".jpg",
    rb"\x89PNG": ".png",
    rb"II\*\x00|MM\x00\*": ".tif",
    rb"RIFF....WEBP": ".webp",
    rb"BM": ".bmp",
    rb"....ftypavi": ".avif",
    rb"....ftyp(hei|hev|mif1)": ".heic",
}


class Unsent(RuntimeError):
    """Standard output took less than the whole picture."""


@contextmanager
def stored(stream: BinaryIO) -> Iterator[Path]:
    """A file of what the stream holds, with the suffix of its format; it vanishes at the end."""
    data = stream.read()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"standard input{_suffix(data)}")
        path.write_bytes(data)
        yield path


@contextmanager
def sent(stream: BinaryIO, suffix: str) -> Iterator[Path]:
    """The path of a file, with the suffix, that is to be written; at the end it is sent to the stream, and vanishes.

    Raises Unsent where the stream does not take it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"standard output{suffix}")
        yield path
        if path.exists():
            try:
                stream.write(path.read_bytes())
                stream.flush()
            except OSError as error:
                raise Unsent(f"the picture was not taken by standard output ({error.strerror})") from error


def read_list(stream: BinaryIO) -> list[Path]:
    """The paths in a list, one a line or, where there is a NUL, separated by these."""
    data = stream.read().removeprefix(codecs.BOM_UTF8)
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [Path(os.fsdecode(name)) for name in names if name.strip()]


def _suffix(data: bytes) -> str:
    """That of the format; of PNG where it is none that is known here, which reading will tell."""
    found = (suffix for beginning, suffix in _BEGINNINGS.items() if re.match(beginning, data, re.DOTALL))
    return next(found, ".png")
