"""Picture files on the disk: finding them, and replacing them whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from deblurgan.config import as_path
from deblurgan.images.picture import StrPath, printable

# Of pictures that can be read, of what cameras' sensors saw, and of all pictures
SUFFIXES: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".tif", ".tiff"}
    | {".webp", ".avif", ".heic", ".heif", ".hif", ".bmp", ".dib", ".gif"}
)
RAW_SUFFIXES: frozenset[str] = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc", ".mef"}
    | {".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
PICTURE_SUFFIXES: frozenset[str] = (
    SUFFIXES
    | RAW_SUFFIXES
    | {".avifs", ".exr", ".hdr", ".heics", ".j2c", ".j2k", ".jp2", ".jpf", ".jpx"}
    | {".jxl", ".jxr", ".pbm", ".pcx", ".pfm", ".pgm", ".pnm", ".ppm", ".psb", ".psd", ".qoi", ".tga", ".wdp", ".xcf"}
)
# Folders of thumbnails and of deleted pictures that are not hidden: of NAS devices, Windows and macOS
_COPIES_AND_BINS = {
    *("@eadir", "@recently-snapshot", "@recycle", "@sharebin", "@tmp", "@transcode", "#recycle", "#snapshot"),
    *("~snapshot", "$recycle.bin", "recycled", "recycler", "network trash folder", "__macosx"),
}


class Found(NamedTuple):
    """The pictures below a folder, sorted, and what stays out of reach."""

    pictures: list[Path]
    failed: list[tuple[Path, str]]
    """Folders that cannot be listed and pictures of formats that cannot be read, each with the reason, sorted."""
    errors: list[OSError]
    """Of the folders that cannot be listed."""


def find(root: StrPath, *, log: Callable[[str], object] = warnings.warn) -> list[Path]:
    """The picture files below a folder, by suffix, sorted; a file gives itself, whatever its suffix.

    Hidden files and folders are skipped, and so are the folders of a NAS or a system for thumbnails and deleted files,
    such as @eaDir and $RECYCLE.BIN. Linked folders are followed, each folder being visited once. `log` is told of
    pictures that are left out since their format cannot be read.

    Raises FileNotFoundError for a missing root, OSError for a folder that cannot be listed, ValueError for "".
    """
    found = scan(root)
    if found.errors:
        raise found.errors[0]
    if found.failed:
        path, reason = found.failed[0]
        log(printable(f"left out {len(found.failed)} pictures, such as {path}: {reason}"))
    return found.pictures


def scan(root: StrPath) -> Found:
    """As `find`, but what cannot be listed or read is part of the result."""
    root = as_path("root", root)
    if not stat.S_ISDIR(root.stat().st_mode):
        return Found([root], [], [])
    pending, seen, found = deque([root]), set[str](), Found([], [], [])
    while pending:
        folder = pending.popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found.failed.append((folder, f"cannot be listed ({error.strerror})"))
            found.errors.append(error)
            continue
        for entry in listed:
            _sort_in(entry, folder / entry.name, pending, found)
    found.pictures.sort()
    found.failed.sort()
    return found


def _sort_in(entry: os.DirEntry[str], path: Path, pending: deque[Path], found: Found) -> None:
    """Adds one entry of a folder to the folders to be visited or to what was found, unless it is to be skipped."""
    if entry.name.startswith("."):
        return
    suffix = path.suffix.lower()
    if _is_folder(entry):
        if entry.name.lower() in _COPIES_AND_BINS:
            return
        if entry.is_symlink():
            pending.append(path)  # after all real folders, so that those keep their own names
        else:
            pending.appendleft(path)
    elif suffix in SUFFIXES:
        found.pictures.append(path)
    elif suffix in PICTURE_SUFFIXES:
        found.failed.append((path, f"{suffix} pictures cannot be read: convert to PNG, TIFF or JPEG first"))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """True also for a link that may not be followed, so that listing it says why; False for one in a circle."""
    try:
        return entry.is_dir()
    except OSError as error:
        return error.errno != errno.ELOOP


def replace_file(path: StrPath, data: bytes) -> None:
    """Puts a file of these bytes at the path, whole or not at all: after an OSError an older file still stands.

    An older file's permissions stay, and its owner and group where the system allows it; a link stays one, and the
    file that it names is replaced.
    """
    path = Path(os.path.realpath(as_path("path", path)))
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        older = path.stat() if path.exists() else None
        mode = 0o666 if older is None else 0o600  # without an older file the umask decides
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if older is not None:
            _take_over(temporary, older)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):  # of the temporary file nobody knows
            error.filename = str(path)
        raise


def _take_over(path: Path, older: os.stat_result) -> None:
    """Gives a file the permissions of an older one, and its owner and group as far as this is allowed."""
    for owner in (older.st_uid, -1):  # who is not root may keep the group at most
        with contextlib.suppress(OSError):
            os.chown(path, owner, older.st_gid)
            break
    os.chmod(path, stat.S_IMODE(older.st_mode))


def require_absent(path: StrPath, *, overwrite: bool) -> None:
    """Raises an OSError where there is something at the path that may not be replaced: FileExistsError for any file
    without `overwrite`, IsADirectoryError for a folder, PermissionError for a file that is read-only."""
    path = Path(path)
    if not path.exists():
        return
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    if not overwrite:
        raise FileExistsError(f"{path} exists: overwrite=True replaces it")
    if not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is read-only")
