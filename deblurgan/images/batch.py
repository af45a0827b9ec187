"""Many pictures at once: where each result goes, and work on all of them that no bad file stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deblurgan.images.files import SUFFIXES, find

# What a bad file or a full disk or memory raises: a failure of one picture, not of the program
FAILURES = (ValueError, OSError, MemoryError, ArithmeticError, RuntimeError)


@dataclass
class FilesReport:
    """What became of each picture: `done` and `skipped` (it existed) list targets, `failed` sources with a reason."""

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)


def plan_outputs(
    inputs: Iterable[Path | str], out: Path | str, *, suffix: str = "", format: str = "keep"
) -> list[tuple[Path, Path]]:
    """(source, target) of each picture. Folders are mirrored below `out`; a single file may name its target.

    `suffix` is added to each name before its extension; `format` is a new extension, or "keep". Where `out` lies inside
    an input folder, the pictures in it are left out. Raises FileNotFoundError for an input that is missing, ValueError
    for one without pictures.
    """
    roots, out = [Path(path) for path in inputs], Path(out)
    if not roots:
        raise ValueError("inputs must name pictures or folders, got none")
    if len(roots) == 1 and roots[0].is_file() and out.suffix.lower() in SUFFIXES and not out.is_dir():
        return [(roots[0], out)]
    plan = []
    for root in roots:
        base = root if root.is_dir() else root.parent
        for source in _sources(root, out):
            extension = source.suffix if format == "keep" else f".{format}"
            target = out / source.relative_to(base).with_name(source.stem + suffix + extension)
            plan.append((source, target))
    return plan


def run_plan(
    plan: Sequence[tuple[Path, Path]],
    work: Callable[[Path, Path], Iterable[str]],
    *,
    skip_existing: bool = False,
    log: Callable[[str], None] | None = None,
) -> FilesReport:
    """Calls work(source, target) for each pair, after making the target's folder; a failure is listed, not raised.

    `work` returns what the target lacks of the source, in words. With `skip_existing` pairs whose target exists are
    left out. `log` takes a line a pair.
    """
    report = FilesReport()
    source_of: dict[Path, Path] = {}
    for i, (source, target) in enumerate(plan, 1):
        try:
            if target in source_of:
                raise FileExistsError(f"{target} is the output of {source_of[target]} already")
            source_of[target] = source
            outcome = _run_one(source, target, work, skip_existing, report)
        except FAILURES as error:
            reason = failure_reason(error)
            report.failed.append((source, reason))
            outcome = f"failed: {reason}"
        if log is not None:
            log(f"[{i}/{len(plan)}] {source} {outcome}")
    return report


def failure_reason(error: Exception) -> str:
    """Why a picture failed, without its path, which a list of failures shows before it."""
    return getattr(error, "reason", None) or str(error) or type(error).__name__


def _sources(root: Path, out: Path) -> list[Path]:
    """The pictures of one input but for those in `out`; raises where there are none."""
    if not root.exists():
        raise FileNotFoundError(f"inputs must exist, got {root}")
    found = find(root)
    if root.is_dir() and root.resolve() in out.resolve().parents:
        found = [path for path in found if not path.resolve().is_relative_to(out.resolve())]
    if not found:
        raise ValueError(f"inputs must hold pictures ({', '.join(sorted(SUFFIXES))}), found none in {root}")
    return found


def _run_one(
    source: Path, target: Path, work: Callable[[Path, Path], Iterable[str]], skip_existing: bool, report: FilesReport
) -> str:
    """Works on one pair, enters it in the report, and says what became of it."""
    if skip_existing and target.exists():
        report.skipped.append(target)
        return "exists, left out"
    target.parent.mkdir(parents=True, exist_ok=True)
    lacking = ", ".join(work(source, target))
    report.done.append(target)
    return f"-> {target}, without {lacking}" if lacking else f"-> {target}"
