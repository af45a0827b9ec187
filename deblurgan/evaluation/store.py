"""The folder of an evaluation: the records of its pictures, from which an interrupted one goes on.

OUT/records/settings.json says of what evaluation they are; OUT/records/0.jsonl holds a line a picture, written down to
the disk as soon as the picture is measured; other processes have 1.jsonl, ...
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deblurgan import images
from deblurgan.data.shards import shard_of
from deblurgan.evaluation.records import Record
from deblurgan.images.files import scan

REPORTS = ("report.html", "report.json", "figures.csv")


class StoreError(RuntimeError):
    """The folder of an evaluation cannot be written, as on a full disk. What it holds is whole."""


class Store:
    """The records in `out`, or none where that is None. One of several processes is the `rank`th."""

    def __init__(self, out: Path | None, rank: int = 0) -> None:
        self.out, self.rank = out, rank
        self._records = None if out is None else out / "records"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder and holds it for this evaluation alone; the first process's part.

        Raises ValueError where another evaluation holds it, OSError for what is no folder or cannot be made. File
        systems without locks are not protected.
        """
        if self.out is None:
            yield
            return
        if self.out.exists() and not self.out.is_dir():
            raise NotADirectoryError(f"out must be a folder, got {self.out}")
        self.out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.out / ".lock", timeout=0, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(f"out must be a folder of its own, another evaluation is at work in {self.out}") from None
        except (OSError, NotImplementedError):
            yield
            return
        try:
            images.remove_temporaries(self.out)
            yield
        finally:
            lock.release()

    def begin(self, settings: Mapping[str, Any], stamps: Mapping[str, str], *, overwrite: bool) -> dict[str, Record]:
        """What was measured before of the pictures whose files are unchanged; the first process's part.

        A picture of which something failed, and one whose line is damaged, is not among them. Raises ValueError where
        the folder holds an evaluation with other settings, FileExistsError where it holds reports of something else;
        neither with `overwrite`, by which nothing was measured before.
        """
        if self.out is None or self._records is None:
            return {}
        told = json.loads(json.dumps(settings))
        file = self._records / "settings.json"
        found: dict[str, Record] = {}
        if overwrite:
            with telling_of(self.out):
                for path in (file, *(self.out / name for name in REPORTS)):
                    path.unlink(missing_ok=True)
        elif not file.exists():
            for name in REPORTS:
                images.require_absent(self.out / name, overwrite=False)
        else:
            self._require_same(_loaded(file), told)
            found = self._whole(stamps)
        with telling_of(self.out):
            self._records.mkdir(exist_ok=True)
            lines = [_line(name, stamps[name], record) for name, record in found.items()]
            images.replace_file(self._records / "0.jsonl", b"".join(lines))
            for path in self._files():
                if path.stem != "0":
                    path.unlink()
            images.replace_file(file, json.dumps(told, indent=1).encode())  # last: no settings but those of all records
        return found

    def add(self, name: str, stamp: str, record: Record) -> None:
        """Writes a picture's record down to the disk. Raises StoreError."""
        if self.out is None or self._records is None:
            return
        path = self._records / f"{self.rank}.jsonl"
        with telling_of(self.out), open(path, "ab", buffering=0) as file:
            rest = memoryview(_line(name, stamp, record))
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())

    def _files(self) -> list[Path]:
        return [] if self._records is None else sorted(self._records.glob("*.jsonl"))

    def _whole(self, stamps: Mapping[str, str]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        for path in self._files():
            for line in path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # cut short, or damaged
                    values = json.loads(line)
                    if values.pop("crc32") != _crc32(values):
                        continue
                    record = Record.from_mapping(values)
                    if not record.failed and stamps.get(values["picture"]) == values["files"]:
                        found[values["picture"]] = record
        return found

    def _require_same(self, there: Any, now: Mapping[str, Any]) -> None:
        other = list(_differences(there, now))
        if other:
            raise ValueError(
                f"out holds an evaluation with another {', '.join(other)}, in {self.out}: choose another folder, or "
                "overwrite=True starts anew"
            )


@contextmanager
def telling_of(folder: Path) -> Iterator[None]:
    """An OSError of a file in the folder becomes a StoreError, which says how much space is left; but for one of a name
    that is too long, which is the fault of one picture."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
        free = ""
        with contextlib.suppress(OSError):
            free = f"; its disk has {shutil.disk_usage(folder).free / 1e6:.1f} MB left"
        raise StoreError(f"{error.filename or folder} cannot be written: {error.strerror or error}{free}") from error


def stamp_of(files: Iterable[Path]) -> str:
    """SHA-256 of the sizes of files and the times when they were last changed; of a picture in a shard the shard's."""
    found = []
    for path in files:
        try:
            status = (shard_of(path) or path).stat()
            found.append(f"{status.st_size} {status.st_mtime_ns}")
        except OSError:
            found.append("missing")
    return digest_of_names(found)


def digest_of_names(names: Sequence[str]) -> str:
    """SHA-256 of names in their order."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def digest_of_files(folder: Path) -> str:
    """SHA-256 of the names and stamps of all pictures in a folder."""
    lines = [f"{path.relative_to(folder)} {stamp_of([path])}" for path in scan(folder).pictures]
    return digest_of_names(lines)


def _line(name: str, stamp: str, record: Record) -> bytes:
    values = {"picture": name, "files": stamp, **record.to_mapping()}
    return json.dumps({**values, "crc32": _crc32(values)}, allow_nan=False).encode() + b"\n"


def _crc32(values: Mapping[str, Any]) -> int:
    """Of values that JSON keeps as they are, by which damage is told that leaves a line readable."""
    return zlib.crc32(json.dumps(values).encode())


def _loaded(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return {}  # which differs in all


def _differences(there: Any, now: Mapping[str, Any]) -> Iterator[str]:
    """The names of settings that differ, with both values where these are short."""
    there = there if isinstance(there, dict) else {}
    for name in [*now, *(name for name in there if name not in now)]:
        was, wanted = there.get(name), now.get(name)
        if isinstance(wanted, dict) and isinstance(was, dict):
            yield from _differences(was, wanted)
        elif was != wanted:
            short = max(len(str(value)) for value in (was, wanted)) < 30 and None not in (was, wanted)
            yield f"{name} ({was} there, {wanted} now)" if short else str(name)
