"""Many pictures at once: where each result goes, and work on all of them that no bad file stops."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deblurgan.config import as_path
from deblurgan.images.files import PICTURE_SUFFIXES, SUFFIXES, scan
from deblurgan.images.picture import StrPath, printable
from deblurgan.images.writing import FORMATS

# What a bad file or a full disk or memory raises: a failure of one picture, not of the program
FAILURES = (ValueError, OSError, MemoryError, ArithmeticError, RuntimeError)


@dataclass
class Plan:
    """What is to be done.

    pairs:    (source, target) of each picture, no target twice.
    left_out: (source, reason) of those that need no work.
    failed:   (source, reason) of pictures and folders that cannot be read.
    """

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)


@dataclass
class FilesReport:
    """What became of each picture: `done` and `skipped` (it existed) list targets, `failed` sources with a reason,
    among them folders that cannot be listed."""

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)


def plan_outputs(
    inputs: Iterable[StrPath],
    out: StrPath,
    *,
    suffix: str = "",
    format: str = "keep",
    subfolder: str = "",
    versions: int = 1,
) -> Plan:
    """What becomes of each picture. Folders are mirrored below `out`; a single file may name its target.

    `suffix` is added to each name before its extension; `format` is a new extension, or "keep". `subfolder` is where in
    `out` the targets lie. Of several `versions` each has a number at the end of its name.

    Where `out` lies inside an input folder, the pictures in it are left out, and so are those that are the output of
    another one. Raises FileNotFoundError for an input that is missing, FileExistsError where several pictures have one
    target, ValueError for an input without pictures and for options that contradict each other.
    """
    if isinstance(inputs, str | os.PathLike):
        raise ValueError(f"inputs must be a list of paths, got {inputs!r}")
    roots, out = [as_path("inputs", path) for path in inputs], as_path("out", out)
    if not roots:
        raise ValueError("inputs must name pictures or folders, got none")
    if format != "keep" and f".{format}" not in FORMATS:
        raise ValueError(f"format must be keep or one of {', '.join(name[1:] for name in FORMATS)}, got {format!r}")
    if set(suffix) & {"/", "\0"}:
        raise ValueError(f"suffix must be part of a file's name, got {suffix!r}")
    plan = Plan()
    if names_file(out):
        _require_single(roots, out, suffix, format)
        plan.pairs = [(roots[0], out)]
    else:
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"out must be a folder or a picture's name, got {out}")
        for root in roots:
            base = root if root.is_dir() else root.parent
            for source in _sources(root, out, plan):
                extension = source.suffix if format == "keep" else f".{format}"
                name = source.relative_to(base).with_name(source.stem + suffix + extension)
                plan.pairs.append((source, out / subfolder / name))
    plan.pairs = [(source, version) for source, target in plan.pairs for version in _versions(target, versions)]
    _settle(plan)
    return plan


def names_file(out: Path) -> bool:
    """Whether `out` names a picture rather than a folder."""
    return out.suffix.lower() in PICTURE_SUFFIXES and not out.is_dir()


def run_plan(
    plan: Plan,
    work: Callable[[Path, Path], Iterable[str]],
    *,
    is_done: Callable[[Path], bool] | None = None,
    log: Callable[[str], None] | None = None,
) -> FilesReport:
    """Calls work(source, target) for each pair, after making the target's folder; a failure is listed, not raised.

    `work` returns what the target lacks of the source, in words. Targets that `is_done` says are there already are
    skipped. `log` takes a line a picture.
    """

    def say(line: str) -> None:
        if log is not None:
            log(printable(line))

    report = FilesReport(failed=list(plan.failed))
    for source, reason in plan.left_out:
        say(f"{source} left out: {reason}")
    for source, reason in plan.failed:
        say(f"{source} failed: {reason}")
    source_of: dict[tuple[int, int], Path] = {}
    for i, (source, target) in enumerate(plan.pairs, 1):
        try:
            outcome = _run_one(source, target, work, is_done, report, source_of)
        except FAILURES as error:
            reason = failure_reason(error)
            report.failed.append((source, reason))
            outcome = f"failed: {reason}"
        say(f"[{i}/{len(plan.pairs)}] {source} {outcome}")
    return report


def failure_reason(error: Exception) -> str:
    """Why a picture failed, without its path, which a list of failures shows before it."""
    return getattr(error, "reason", None) or str(error) or type(error).__name__


def _require_single(roots: list[Path], out: Path, suffix: str, format: str) -> None:
    """Raises where `out`, which names a file, does not go with the other options."""
    if len(roots) > 1 or roots[0].is_dir():
        raise ValueError(f"out must be a folder for a folder or several pictures, got {out}")
    if not roots[0].exists():
        raise FileNotFoundError(f"inputs must exist, got {roots[0]}")
    if suffix:
        raise ValueError(f"suffix goes with a folder as out, got suffix {suffix!r} and out {out}")
    if format != "keep" and FORMATS[f".{format}"] != FORMATS.get(out.suffix.lower()):
        raise ValueError(f"format must be that of out or keep, got format {format!r} and out {out}")


def _sources(root: Path, out: Path, plan: Plan) -> Iterator[Path]:
    """The pictures of one input but for those in `out`; adds to the plan what fails. Raises where there is neither."""
    if not root.exists():
        raise FileNotFoundError(f"inputs must exist, got {root}")
    found = scan(root)
    pictures, failed = found.pictures, found.failed
    if root.is_dir() and root.resolve() in out.resolve().parents:
        pictures = [path for path in pictures if not path.resolve().is_relative_to(out.resolve())]
        failed = [(path, why) for path, why in failed if not path.resolve().is_relative_to(out.resolve())]
    if not pictures and not failed:
        raise ValueError(f"inputs must hold pictures ({', '.join(sorted(SUFFIXES))}), found none in {root}")
    plan.failed += failed
    yield from pictures


def _versions(target: Path, n: int) -> list[Path]:
    """The paths of n versions of one target: itself, or numbered ones."""
    return [target.with_stem(f"{target.stem}_{k:03d}") for k in range(n)] if n > 1 else [target]


def _settle(plan: Plan) -> None:
    """Leaves out pictures that are given twice, and those that are the output of another one. Raises FileExistsError
    for different pictures with one target."""
    real = [(os.path.realpath(source), os.path.realpath(target)) for source, target in plan.pairs]
    source_of: dict[str, tuple[str, Path]] = {}
    for (source, target), (real_source, real_target) in zip(plan.pairs, real, strict=True):
        first = source_of.setdefault(real_target, (real_source, source))
        if first[0] != real_source:
            raise FileExistsError(f"{target} would be the output of both {first[1]} and {source}")
    pairs, taken = [], set[str]()
    for (source, target), (real_source, real_target) in zip(plan.pairs, real, strict=True):
        maker = source_of.get(real_source)
        if maker is not None and maker[0] != real_source:
            plan.left_out.append((source, f"the output of {maker[1]}"))
        elif real_target in taken:
            plan.left_out.append((source, "given twice"))
        else:
            taken.add(real_target)
            pairs.append((source, target))
    plan.pairs, plan.left_out = pairs, list(dict.fromkeys(plan.left_out))


def _run_one(
    source: Path,
    target: Path,
    work: Callable[[Path, Path], Iterable[str]],
    is_done: Callable[[Path], bool] | None,
    report: FilesReport,
    source_of: dict[tuple[int, int], Path],
) -> str:
    """Works on one pair, enters it in the report, and says what became of it. `source_of` notes whose output each file
    is: some disks take names for the same that differ in case or in Unicode's form."""
    if target.exists() and _identity(target) in source_of:
        raise FileExistsError(f"{target} is the output of {source_of[_identity(target)]} already")
    if is_done is not None and is_done(target):
        if target.samefile(source):
            raise FileExistsError(f"{target} is the input itself: overwrite=True replaces it")
        report.skipped.append(target)
        outcome = "exists, left out"
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        lacking = ", ".join(work(source, target))
        report.done.append(target)
        outcome = f"-> {target}, without {lacking}" if lacking else f"-> {target}"
    source_of[_identity(target)] = source
    return outcome


def _identity(path: Path) -> tuple[int, int]:
    """What tells a file from every other one, whatever its names."""
    status = path.stat()
    return status.st_dev, status.st_ino
