"""How much memory a device has left for this process: what the machine has free, and what limits leave of it.

A container, a systemd slice or a batch system limits memory by a Linux control group, and ends a process that takes
more; a shell's `ulimit -v` makes the allocation fail. /proc/meminfo shows neither.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

CPU = torch.device("cpu")

# A control group's limits, what it uses, and the entry of memory.stat for the part of it that is cached files no longer
# in use, which the kernel drops when asked for more. All three count the groups below it too.
_GROUP_FILES = [
    ("memory.max", "memory.current", "inactive_file"),  # version 2
    ("memory.high", "memory.current", "inactive_file"),  # above it the kernel slows a process down to a standstill
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
]


class FreeMemory(NamedTuple):
    """Bytes that can still be allocated, and what says so."""

    bytes: int
    source: str


def free_memory(device: torch.device) -> FreeMemory | None:
    """What can still be allocated on the device; None where the system does not report it."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # reserved by torch
        return FreeMemory(torch.cuda.mem_get_info(device)[0] + idle, torch.cuda.get_device_name(device))
    return available_memory()


def require_memory(w: int, h: int, need: int, device: torch.device = CPU) -> FreeMemory | None:
    """What is free on the device. Raises MemoryError where the work on a picture of w x h needs more, `need` bytes."""
    free = free_memory(device)
    if free is not None and need > free.bytes:
        wanted, there = (round(count / 2**20) for count in (need, free.bytes))
        raise MemoryError(f"picture of {w}x{h} needs about {wanted} MiB, {there} MiB are free ({free.source})")
    return free


def resident_memory(proc: Path = Path("/proc")) -> int | None:
    """Bytes of the machine's memory that this process holds; None where there is no /proc to say so."""
    lines = _lines(proc / "self/statm")
    if not lines:
        return None
    import resource  # which Windows lacks

    return int(lines[0].split()[1]) * resource.getpagesize()


def free_disk(folder: Path) -> int:
    """Bytes that this user can still write into the folder."""
    return shutil.disk_usage(folder).free


def lies_in_memory(folder: Path, proc: Path = Path("/proc")) -> bool:
    """Whether files in the folder take memory, not disk; False where there is no /proc to say so."""
    real, kinds = folder.resolve(), dict[Path, str]()
    for line in _lines(proc / "self/mountinfo"):
        mount, _, system = line.partition(" - ")
        kinds[Path(_unescaped(mount.split(" ")[4]))] = system.split(" ")[0]  # the last mounted lies on top
    return next((kinds[path] for path in (real, *real.parents) if path in kinds), "") in ("tmpfs", "ramfs")


def available_memory(proc: Path = Path("/proc")) -> FreeMemory | None:
    """What this process can still allocate of the machine's memory; None where there is no /proc to say so."""
    return min([*_machine(proc), *_resource_limits(proc), *_control_groups(proc)], default=None)


def _machine(proc: Path) -> Iterator[FreeMemory]:
    """What the machine as a whole has free."""
    for line in _lines(proc / "meminfo"):
        if line.startswith("MemAvailable:"):
            yield FreeMemory(int(line.split()[1]) * 1024, "MemAvailable in /proc/meminfo")


def _resource_limits(proc: Path) -> Iterator[FreeMemory]:
    """What the process's own limits leave, `ulimit -v` and `ulimit -d`."""
    if sys.platform != "linux":
        return
    import resource

    for line in _lines(proc / "self/statm"):
        pages = [int(word) for word in line.split()]
        for name, used in (("RLIMIT_AS", pages[0]), ("RLIMIT_DATA", pages[5])):
            limit = resource.getrlimit(getattr(resource, name))[0]
            if limit != resource.RLIM_INFINITY:
                yield FreeMemory(max(0, limit - used * resource.getpagesize()), name)


def _control_groups(proc: Path) -> Iterator[FreeMemory]:
    """What is left in this process's memory control group and in each of those that it lies in."""
    for group in _group_folders(proc):
        for limit_file, usage_file, inactive in _GROUP_FILES:
            limit, usage = _number(group / limit_file), _number(group / usage_file)
            if limit is not None and usage is not None:
                stat = dict(line.split() for line in _lines(group / "memory.stat"))
                free = limit - usage + int(stat.get(inactive, 0))
                yield FreeMemory(max(0, free), f"{group / limit_file}")


def _group_folders(proc: Path) -> Iterator[Path]:
    """The folder of the process's memory control group and of those above it, as far as they are mounted."""
    path_of: dict[str, str] = {}
    for line in _lines(proc / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        path_of |= dict.fromkeys(controllers.split(","), path)  # version 2 names no controller
    for line in _lines(proc / "self/mountinfo"):
        mount, _, system = line.partition(" - ")
        kind, *_, options = system.split(" ")
        controller = "" if kind == "cgroup2" else "memory"
        if kind not in ("cgroup", "cgroup2") or controller not in ["", *options.split(",")]:
            continue
        root, point = map(_unescaped, mount.split(" ")[3:5])
        inside = _below(path_of.get(controller, "/"), root)
        folder = Path(point, inside)
        yield from (folder, *folder.parents[: len(inside.parts)])


def _unescaped(word: str) -> str:
    """A word of mountinfo, where a space is \\040."""
    return re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), word)


def _below(path: str, root: str) -> PurePosixPath:
    """A group's path from the root of a mount. Empty where the mount does not show it, as in a container that sees the
    host's paths: there the mount's root is the container's own group."""
    try:
        inside = PurePosixPath(path).relative_to(root)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in inside.parts else inside


def _number(path: Path) -> int | None:
    """The number in a control group's file; None for "max" and where there is no such file."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _lines(path: Path) -> list[str]:
    """The lines of a file of /proc or of a control group; none where it is not there or may not be read."""
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
