"""Picture files on the disk: finding them, and replacing them whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import importlib.util
import os
import re
import secrets
import stat
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from deblurgan.config import as_path
from deblurgan.display import counted
from deblurgan.images.picture import StrPath, printable

# Of pictures that Pillow reads, of those for pillow-heif, of what cameras' sensors saw, of all pictures, and of videos
SUFFIXES: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".tif", ".tiff"}
    | {".webp", ".bmp", ".dib", ".gif", ".avif"}
)
HEIC_SUFFIXES: frozenset[str] = frozenset({".heic", ".heif", ".hif"})
RAW_SUFFIXES: frozenset[str] = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc", ".mef"}
    | {".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
PICTURE_SUFFIXES: frozenset[str] = (
    SUFFIXES
    | HEIC_SUFFIXES
    | RAW_SUFFIXES
    | {".avifs", ".exr", ".hdr", ".heics", ".j2c", ".j2k", ".jp2", ".jpf", ".jpx"}
    | {".jxl", ".jxr", ".pbm", ".pcx", ".pfm", ".pgm", ".pnm", ".ppm", ".psb", ".psd", ".qoi", ".tga", ".wdp", ".xcf"}
)
VIDEO_SUFFIXES: frozenset[str] = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts"}
    | {".wmv", ".asf", ".flv", ".ogv"}
)
# Of videos that can be written, and what FFmpeg calls them
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")  # names while files are written
# Folders of thumbnails and of deleted pictures that are not hidden: of NAS devices, Windows and macOS
_COPIES_AND_BINS = {
    *("@eadir", "@recently-snapshot", "@recycle", "@sharebin", "@tmp", "@transcode", "#recycle", "#snapshot"),
    *("~snapshot", "$recycle.bin", "recycled", "recycler", "network trash folder", "__macosx"),
}


class Found(NamedTuple):
    """The pictures below a folder, and what stays out of reach; all sorted."""

    pictures: list[Path]
    failed: list[tuple[Path, str]]
    """Folders that cannot be listed and pictures of formats that cannot be read, each with the reason."""
    errors: list[OSError]
    """Of the folders that cannot be listed."""
    others: list[Path]
    """Files that are no pictures."""


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
        log(printable(f"left out {counted(len(found.failed), 'picture')}, such as {path}: {reason}"))
    return found.pictures


def scan(root: StrPath) -> Found:
    """As `find`, but what cannot be listed or read is part of the result."""
    root = as_path("root", root)
    if not stat.S_ISDIR(root.stat().st_mode):
        return Found([root], [], [], [])
    pending, seen, found = deque([root]), set[str](), Found([], [], [], [])
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
    for part in (found.pictures, found.failed, found.others):
        part.sort()
    return found


def expand(pattern: StrPath) -> tuple[list[Path], Path] | None:
    """What matches a pattern with *, ?, [...] or ** (any folders), sorted, and the folder above its first such part;
    None where a file of that very name is there, or there is no such part.

    Hidden files match no wildcard, and of ** folders are no matches. Linked folders are followed, each being visited
    once.
    """
    path = as_path("inputs", pattern)
    if not glob.has_magic(str(path)) or os.path.lexists(path):
        return None
    fixed = [not glob.has_magic(part) for part in path.parts].index(False)
    seen, matches = set[tuple[str, str]](), []
    for name in sorted(glob.iglob(str(path), recursive=True), key=lambda name: (name.count(os.sep), name)):
        match = Path(name)
        place = os.path.realpath(match.parent), match.name
        if place not in seen and os.path.lexists(match) and not ("**" in path.parts and match.is_dir()):
            seen.add(place)
            matches.append(match)
    return sorted(matches), Path(*path.parts[:fixed])


def sort_files(paths: Iterable[Path]) -> Found:
    """Files by their suffixes into pictures, those that cannot be read and others, as `scan` does."""
    found = Found([], [], [], [])
    for path in paths:
        _sort_file(path, found)
    return found


def kinds(paths: Iterable[Path]) -> str:
    """Files that are no pictures, counted by kind: "1 video (.mp4; deblur takes it by name), 2 .txt"."""
    videos, others = Counter[str](), Counter[str]()
    for path in paths:
        suffix = path.suffix.lower()
        (videos if suffix in VIDEO_SUFFIXES else others)[suffix or "without a suffix"] += 1
    words = [f"{count} {suffix}" for suffix, count in sorted(others.items(), key=lambda item: (-item[1], item[0]))]
    if videos:
        number, suffixes = videos.total(), ", ".join(sorted(videos))
        is_one = number == 1
        by_name = f"deblur takes {'it' if is_one else 'them'} by name"
        words.insert(0, f"{number} video{'' if is_one else 's'} ({suffixes}; {by_name})")
    return ", ".join(words)


def _sort_in(entry: os.DirEntry[str], path: Path, pending: deque[Path], found: Found) -> None:
    """Adds one entry of a folder to the folders to be visited or to what was found, unless it is to be skipped."""
    if entry.name.startswith("."):
        return
    if _is_folder(entry):
        if entry.name.lower() in _COPIES_AND_BINS:
            return
        if entry.is_symlink():
            pending.append(path)  # after all real folders, so that those keep their own names
        else:
            pending.appendleft(path)
    else:
        _sort_file(path, found)


def _sort_file(path: Path, found: Found) -> None:
    why = why_unreadable(path)
    if why is not None:
        found.failed.append((path, why))
    elif path.suffix.lower() in PICTURE_SUFFIXES:
        found.pictures.append(path)
    else:
        found.others.append(path)


def why_unreadable(path: Path) -> str | None:
    """Why a file of this suffix is a picture that cannot be read; None where it can, and for other files."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or suffix not in PICTURE_SUFFIXES:
        return None
    if suffix in RAW_SUFFIXES:
        return "camera raw files cannot be read: develop to TIFF, PNG or JPEG first"
    if suffix not in HEIC_SUFFIXES:
        return f"{suffix} pictures cannot be read: convert to PNG, TIFF or JPEG first"
    if importlib.util.find_spec("pillow_heif") is None:
        return "HEIC needs pillow_heif: pip install 'deblurgan[heic]'"
    return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """True also for a link that may not be followed, so that listing it says why; False for one in a circle."""
    try:
        return entry.is_dir()
    except OSError as error:
        return error.errno != errno.ELOOP


def replace_file(path: StrPath, data: bytes) -> None:
    """Puts a file of these bytes at the path, whole or not at all: after an OSError an older file still stands.

    An older file's permissions stay, and its owner and group where the system allows it; a link stays one, and the
    file that it names is replaced. Where the disk knows files without a name, a process that is killed while it writes
    leaves nothing; `remove_temporaries` removes what else it may leave.
    """
    path = Path(os.path.realpath(as_path("path", path)))
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        older = path.stat() if path.exists() else None
        if older is None and _write_nameless(path, data, 0o666):  # the umask decides
            _sync_folder(path.parent)
            return
        mode = 0o666 if older is None else 0o600
        if not _write_nameless(temporary, data, mode):
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                _write(file, data)
        if older is not None:
            _take_over(temporary, older)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):  # of the temporary file nobody knows
            error.filename = str(path)
        raise


def remove_temporaries(folder: Path) -> None:
    """Removes what a killed `replace_file` has left in a folder, where no other process may be writing."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Writes the names in a folder down to the disk, so that a new one outlives a loss of power. Some systems do not
    open folders, and some disks do not take the call."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_nameless(path: Path, data: bytes, mode: int) -> bool:
    """Puts a file where there is none, whole before it has a name; False where that fails, as on many network disks."""
    if sys.platform != "linux":
        return False
    try:
        with open(os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, mode), "wb") as file:
            _write(file, data)
            # A folder has no effect on an absolute path, but makes Python follow the link.
            os.link(f"/proc/self/fd/{file.fileno()}", path, src_dir_fd=file.fileno())
    except OSError:
        return False
    return True


def _write(file: BinaryIO, data: bytes) -> None:
    """Writes the bytes down to the disk."""
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


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
