"""Picture files on the disk: finding them, and replacing them whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections import deque
from pathlib import Path

from deblurgan.images.picture import StrPath

SUFFIXES: frozenset[str] = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".mpo"})


def find(root: StrPath) -> list[Path]:
    """The picture files below a folder, by suffix, sorted; a file gives itself, whatever its suffix.

    Hidden files and folders are skipped. Linked folders are followed, each folder being visited once.
    Raises FileNotFoundError for a missing root, OSError for a folder that may not be listed.
    """
    root = Path(root)
    if not stat.S_ISDIR(root.stat().st_mode):
        return [root]
    pending, seen, found = deque([root]), set[str](), list[Path]()
    while pending:
        folder = pending.popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue
            if entry.is_dir() and entry.is_symlink():
                pending.append(entry)  # after all real folders, so that those keep their own names
            elif entry.is_dir():
                pending.appendleft(entry)
            elif entry.suffix.lower() in SUFFIXES and entry.is_file():
                found.append(entry)
    return sorted(found)


def replace_file(path: StrPath, data: bytes) -> None:
    """Puts a file of these bytes at the path, whole or not at all: after an OSError an older file still stands."""
    temporary = Path(path).with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:  # unlike tempfile's, its permissions follow the umask
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def require_absent(path: StrPath, *, overwrite: bool) -> None:
    """Raises FileExistsError where there is a file at the path that may not be overwritten."""
    if not overwrite and Path(path).exists():
        raise FileExistsError(f"{path} exists: overwrite=True replaces it")
