"""Limits of memory and processor priority, within those of the machine and its container."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

UNLIMITED = 2**63
NICENESS = 10
"""Niceness of checkers and jobs, so that predictions come first."""
_CGROUPS = Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, use, and the entry of ``memory.stat`` that is reclaimed on demand; of cgroups version 2, then 1."""


def memory_left(groups: Path = _CGROUPS, process: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes that can still be used before the kernel kills a process, 0 or more.

    Args:
        groups: mount of the cgroup file system.
        process: file with the groups of this process.
    """
    left = [_bytes_of(Path("/proc/meminfo"), "MemAvailable:") * 1024 or UNLIMITED]
    for line in _read(process).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = groups / controllers
            group = root / path.lstrip("/")
            # In a container, the path may be that in the host's tree, while the group is mounted as the root.
            folders = [group, *group.parents] if group.is_dir() else [root]
            left += [_left_in(folder) for folder in folders if folder.is_relative_to(root)]
    return max(0, min(left))


def within(kind: int, limit: int) -> int:
    """Return the lesser of a limit and the hard limit of this process (``ulimit``, ``LimitDATA``).

    Args:
        kind: of resource, such as ``resource.RLIMIT_DATA``.
        limit: in the resource's unit.
    """
    hard = resource.getrlimit(kind)[1]
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def lower_priority(autogroup: Path = Path("/proc/self/autogroup")) -> None:
    """Lower the priority of this process below that of the server.

    Where Linux groups processes by session (``sched_autogroup_enabled``), the niceness of a process only
    counts against processes of its session: against the server, that of the group counts.

    Args:
        autogroup: file with the niceness of this process's group.
    """
    os.nice(NICENESS)
    with suppress(OSError):  # the system has no such groups
        autogroup.write_text(str(NICENESS), "ascii")


def _left_in(folder: Path) -> int:
    for limit_name, used_name, cache_name in _FILES:
        limit, used = _read(folder / limit_name), _read(folder / used_name)
        if limit.isdecimal() and used.isdecimal():
            return int(limit) - int(used) + _bytes_of(folder / "memory.stat", cache_name)
    return UNLIMITED


def _bytes_of(file: Path, name: str) -> int:
    for line in _read(file).splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    return 0


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii").strip()
    except OSError:
        return ""
