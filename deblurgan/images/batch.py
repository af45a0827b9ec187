"""Many pictures at once: where each result goes, and work on all of them that no bad file stops."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

from deblurgan.config import as_path
from deblurgan.images.compare import Change
from deblurgan.images.files import (
    CONTAINERS,
    HEIC_SUFFIXES,
    PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    Found,
    expand,
    kinds,
    scan,
    sort_files,
)
from deblurgan.images.picture import StrPath, printable
from deblurgan.images.writing import FORMATS

# What takes the place of formats that can be read and not written
_WRITTEN_AS = {
    **dict.fromkeys(HEIC_SUFFIXES, ".jpg"),
    ".gif": ".png",
    **dict.fromkeys(VIDEO_SUFFIXES - CONTAINERS.keys(), ".mp4"),
}
# What a bad file or a full disk or memory raises: a failure of one picture, not of the program
FAILURES = (ValueError, OSError, MemoryError, ArithmeticError, RuntimeError)


@dataclass
class Plan:
    """What is to be done.

    pairs:    (source, target) of each picture, no target twice.
    left_out: (source, reason) of those that need no work.
    failed:   (source, reason) of pictures and folders that cannot be read.
    others:   files in the folders that are no pictures.
    """

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


@dataclass
class FilesReport:
    """What became of each picture: `done` and `skipped` (it existed) list targets, `failed` sources with a reason,
    among them folders that cannot be listed. `left_out` are (source, reason) of pictures that need no work, such as the
    results of an earlier run, and `others` files in the folders that are no pictures.

    Of targets that are done, `changes` says how much each changed, and `scales` the scale that it was restored at.
    These, `left_out` and `others` have no part in comparisons of reports.
    """

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list, compare=False)
    others: list[Path] = field(default_factory=list, compare=False)
    changes: dict[Path, Change] = field(default_factory=dict, compare=False)
    scales: dict[Path, float] = field(default_factory=dict, compare=False)


class Input(NamedTuple):
    """A picture or a folder that was given."""

    path: Path
    base: Path
    """The folder that a target's place in `out` is relative to."""
    found: Found | None = None
    """What a pattern matched, in place of the path."""


def plan_outputs(
    inputs: Iterable[StrPath],
    out: StrPath | None,
    *,
    listed: Iterable[StrPath] = (),
    suffix: str = "",
    format: str = "keep",
    subfolder: str = "",
    versions: int = 1,
    results: tuple[str, ...] = (),
) -> Plan:
    """What becomes of each picture. Folders are mirrored below `out`; a single file may name its target.

    Without `out` the target of a file lies beside it, and that of a folder is a folder beside it: `suffix` is then
    added to the name of what was given, else to each picture's, before its extension. `format` is a new extension, or
    "keep", which is .jpg for HEIC and .png for GIF; of a video that cannot be written it is .mp4. `subfolder` is where
    in `out` the targets lie. Of several `versions` each has a number at the end of its name.

    An input with *, ?, [...] or ** stands for what it matches, unless a file has that very name; of that the folder
    above its first such part is mirrored. Of `listed`, pictures by name as in a file list, a relative path is kept
    below `out`, and one that is missing is a failure.

    Left out are: where `out` lies inside an input folder, the pictures in it; the output of another picture; and
    unless it is the only input, a picture or folder whose name is that of one beside it with one of `results` at its
    end.

    Raises FileNotFoundError for an input that is missing or a pattern without a match, FileExistsError where several
    pictures have one target, ValueError for an input without pictures and for options that contradict each other.
    """
    if isinstance(inputs, str | os.PathLike):
        raise ValueError(f"inputs must be a list of paths, got {inputs!r}")
    out = None if out is None else as_path("out", out)
    if format != "keep" and f".{format}" not in FORMATS:
        raise ValueError(f"format must be keep or one of {', '.join(name[1:] for name in FORMATS)}, got {format!r}")
    if set(suffix) & {"/", "\0"}:
        raise ValueError(f"suffix must be part of a file's name, got {suffix!r}")
    plan = Plan()
    roots = [root for path in inputs for root in _inputs(path)] + _listed(listed, plan)
    if not roots and not plan.failed:
        raise ValueError("inputs must name pictures or folders, got none")
    if out is not None and names_file(out):
        plan.pairs = [(_single(roots, out, suffix, format), out)]
    else:
        if out is not None and out.exists() and not out.is_dir():
            raise NotADirectoryError(f"out must be a folder or a picture's name, got {out}")
        is_alone = len(roots) == 1 and roots[0].found is None and not roots[0].path.is_dir()
        is_result = _Results(() if is_alone else results)
        for root in roots:
            plan.pairs += list(_pairs(root, out, suffix, format, subfolder, is_result, plan))
    plan.pairs = [(source, version) for source, target in plan.pairs for version in _versions(target, versions)]
    _settle(plan)
    return plan


def names_file(out: Path) -> bool:
    """Whether `out` names a picture or a video rather than a folder."""
    return out.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES and not out.is_dir()


def is_video(path: Path) -> bool:
    """Whether the file's suffix is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def written_suffix(source: Path, format: str) -> str:
    """The extension of what becomes of a file, with `format` as in `plan_outputs`."""
    kept = _WRITTEN_AS.get(source.suffix.lower(), source.suffix)
    return kept if format == "keep" or is_video(source) else f".{format}"


def run_plan(
    plan: Plan,
    work: Callable[[Path, Path], Iterable[str]],
    *,
    is_done: Callable[[Path], bool] | None = None,
    log: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> FilesReport:
    """Calls work(source, target) for each pair, after making the target's folder; a failure is listed, not raised.

    `work` returns what the target lacks of the source, in words. Targets that `is_done` says are there already are
    skipped. `log` takes a line a picture; `warn` takes those of failures in its place.
    """
    report = report_of(plan)
    say, complain = speakers(log, warn)
    say_beforehand(plan, say, complain)
    written = Written()
    for i, (source, target) in enumerate(plan.pairs, 1):
        name = f"[{i}/{len(plan.pairs)}] {source}"
        try:
            written.require_new(target)
            if is_done is not None and is_done(target):
                require_not_itself(source, target)
                report.skipped.append(target)
                outcome = f"left out: {target} exists"
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                lacking = ", ".join(work(source, target))
                report.done.append(target)
                outcome = f"-> {target}, without {lacking}" if lacking else f"-> {target}"
            written.add(target, source)
        except FAILURES as error:
            reason = failure_reason(error)
            report.failed.append((source, reason))
            complain(f"{name} failed: {reason}")
        else:
            say(f"{name} {outcome}")
    return report


def report_of(plan: Plan) -> FilesReport:
    """The report before any work is done."""
    return FilesReport(failed=list(plan.failed), left_out=list(plan.left_out), others=list(plan.others))


def speakers(
    log: Callable[[str], None] | None, warn: Callable[[str], None] | None
) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """What says a line, and what says one of a failure: to `log`, and to `warn` or else `log`, if there is one."""

    def through(heard: Callable[[str], None] | None) -> Callable[[str], None]:
        return lambda line: None if heard is None else heard(printable(line))

    return through(log), through(warn or log)


def say_beforehand(plan: Plan, say: Callable[[str], None], complain: Callable[[str], None]) -> None:
    """A line for each part of the plan that no work is to be done on."""
    for source, reason in plan.left_out:
        say(f"{source} left out: {reason}")
    for source, reason in plan.failed:
        complain(f"{source} failed: {reason}")


def require_not_itself(source: Path, target: Path) -> None:
    """Raises FileExistsError where a target that exists is its own source."""
    if target.samefile(source):
        raise FileExistsError(f"{target} is the input itself: overwrite=True replaces it")


class Written:
    """Whose output each file is: some disks take names for the same that differ in case or in Unicode's form."""

    def __init__(self) -> None:
        self._source_of: dict[tuple[int, int], Path] = {}

    def require_new(self, target: Path) -> None:
        """Raises FileExistsError where the target is the output of another source already."""
        source = self._source_of.get(_identity(target)) if target.exists() else None
        if source is not None:
            raise FileExistsError(f"{target} is the output of {source} already")

    def add(self, target: Path, source: Path) -> None:
        self._source_of[_identity(target)] = source


def failure_reason(error: Exception) -> str:
    """Why a picture failed, without its path, which a list of failures shows before it."""
    return getattr(error, "reason", None) or str(error) or type(error).__name__


def _inputs(given: StrPath) -> list[Input]:
    """One input, or what it matches as a pattern. Raises FileNotFoundError where there is nothing."""
    matched = expand(given)
    if matched is None:
        path = require_input(given)
        return [Input(path, path if path.is_dir() else path.parent)]
    matches, base = matched
    if not matches:
        raise FileNotFoundError(f"inputs must match files, nothing matches {given}")
    files = [path for path in matches if not path.is_dir()]
    found = sort_files(files)
    if is_video(Path(given)):  # which a pattern for all files does not ask for
        found.pictures[:] = files
        found.others.clear()
    folders = [Input(path, base) for path in matches if path.is_dir()]
    return [Input(Path(given), base, found), *folders] if files else folders


def require_input(given: StrPath) -> Path:
    """The path of an input. Raises FileNotFoundError for one that is missing and no pattern."""
    path = as_path("inputs", given)
    if not path.exists() and not has_magic(str(path)):
        raise FileNotFoundError(f"inputs must exist, got {path}{_with_slashes(path)}")
    return path


def _with_slashes(path: Path) -> str:
    """What was meant by a path with Windows' separators, as a hint."""
    other = Path(str(path).replace("\\", "/"))
    return f": {other} does" if other != path and other.exists() else ""


def _listed(paths: Iterable[StrPath], plan: Plan) -> list[Input]:
    """Inputs of the pictures in a file list; what else is in it goes into the plan."""
    inputs = []
    for given in paths:
        path = as_path("listed", given)
        if not path.exists():
            plan.failed.append((path, "no such file"))
            continue
        keep = not path.is_absolute() and ".." not in path.parts
        found = sort_files([path])
        plan.failed += found.failed
        plan.others += found.others
        inputs += [Input(path, Path() if keep else path.parent, found)] if found.pictures else []
    return inputs


def _single(roots: list[Input], out: Path, suffix: str, format: str) -> Path:
    """The only picture or video that is given. Raises where `out`, which names a file, does not go with the rest."""
    pictures = [path for root in roots for path in ([root.path] if root.found is None else root.found.pictures)]
    if len(pictures) != 1 or pictures[0].is_dir():
        raise ValueError(f"out must be a folder for a folder or several pictures, got {out}")
    suffixes = CONTAINERS if is_video(pictures[0]) else FORMATS
    if out.suffix.lower() not in suffixes:
        usual = {kind: suffix for suffix, kind in reversed(suffixes.items())}  # the first of each
        raise ValueError(
            f"out must be a folder or end in {', '.join(reversed(usual.values()))}, got {out} for {pictures[0]}"
        )
    if suffix:
        raise ValueError(f"suffix goes with a folder as out, got suffix {suffix!r} and out {out}")
    if format != "keep" and FORMATS[f".{format}"] != FORMATS.get(out.suffix.lower()):
        raise ValueError(f"format must be that of out or keep, got format {format!r} and out {out}")
    return pictures[0]


def _pairs(
    root: Input, out: Path | None, suffix: str, format: str, subfolder: str, is_result: _Results, plan: Plan
) -> Iterator[tuple[Path, Path]]:
    """(source, target) of the pictures of one input; adds the rest of what it holds to the plan."""
    base = root.base
    if out is None and root.path.is_dir():
        out, base, suffix = _beside(root.path, suffix), root.path, ""
    for source in _sources(root, out, plan):
        name = source.stem + suffix + written_suffix(source, format)
        folder = source.parent if out is None else (out / subfolder / source.relative_to(base)).parent
        result = is_result(source, root.base, suffix if folder.resolve() == source.parent.resolve() else "")
        if result is None:
            yield source, folder / name
        else:
            plan.left_out.append((result, "the result of an earlier run, by its name"))


def _beside(folder: Path, suffix: str) -> Path:
    """The folder beside it with the suffix added to its name."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    if not named.name:
        raise ValueError(f"out must be given for the folder {folder}, which has none beside it")
    return named.with_name(named.name + suffix)


def _sources(root: Input, out: Path | None, plan: Plan) -> list[Path]:
    """The pictures of one input but for those in `out`; adds to the plan what else is in it. Raises where there is no
    picture, not even one that fails."""
    found = scan(root.path) if root.found is None else root.found
    pictures, failed, others = found.pictures, found.failed, found.others
    if out is not None and root.path.is_dir() and root.path.resolve() in out.resolve().parents:
        real = out.resolve()
        pictures = [path for path in pictures if not path.resolve().is_relative_to(real)]
        failed = [(path, why) for path, why in failed if not path.resolve().is_relative_to(real)]
        others = [path for path in others if not path.resolve().is_relative_to(real)]
    if not pictures and not failed:
        instead = f": {kinds(others)}" if others else ""
        wanted = "pictures (JPEG, PNG, TIFF, WebP, AVIF, HEIC, BMP, GIF)"
        raise ValueError(f"inputs must hold {wanted}, found none in {root.path}{instead}")
    plan.failed += failed
    plan.others += others
    return pictures


class _Results:
    """Tells pictures and folders whose names are those of others beside them with one of the endings."""

    def __init__(self, endings: tuple[str, ...]) -> None:
        self._endings = endings
        self._listings: dict[Path, set[str]] = {}

    def __call__(self, path: Path, base: Path, suffix: str) -> Path | None:
        """The picture itself or a folder that it is in, below the base, if that is named so; the picture's name may end
        in `suffix` too."""
        inside = path.relative_to(base).parts
        for depth in range(1, len(inside) + 1):  # the outermost first
            part = base.joinpath(*inside[:depth])
            is_picture = depth == len(inside)
            name = part.stem if is_picture else part.name
            for ending in {*self._endings, suffix} if is_picture and self._endings else self._endings:
                bare = name.removesuffix(ending)
                if bare and bare != name and bare in self._beside(part.parent):
                    return part
        return None

    def _beside(self, folder: Path) -> set[str]:
        """The names of what is in a folder, those of pictures without their extension too."""
        if folder not in self._listings:
            names = [Path(name) for name in os.listdir(folder)]
            stems = {name.stem for name in names if name.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES}
            self._listings[folder] = stems | {name.name for name in names}
        return self._listings[folder]


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


def _identity(path: Path) -> tuple[int, int]:
    """What tells a file from every other one, whatever its names."""
    status = path.stat()
    return status.st_dev, status.st_ino
