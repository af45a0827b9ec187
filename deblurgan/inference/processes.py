"""How processes share the work on a folder."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from deblurgan.distributed import Processes


class HasTarget(Protocol):
    @property
    def target(self) -> Path: ...


J = TypeVar("J", bound=HasTarget)


def share(jobs: Sequence[J], processes: Processes) -> list[J]:
    """Those jobs that this process does, of a list that all processes have. Targets that some disks take for one fall
    to one process."""
    number: dict[str, int] = {}
    for job in jobs:
        number.setdefault(_folded(job.target), len(number))
    return [job for job in jobs if number[_folded(job.target)] % processes.count == processes.rank]


def _folded(path: Path) -> str:
    """What names have in common that a disk may take for one."""
    return unicodedata.normalize("NFC", str(path)).casefold()
