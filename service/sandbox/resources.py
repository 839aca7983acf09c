"""What this process may use of memory and processors, beside the others of its machine and container."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

UNLIMITED = 2**63
NICENESS = 10
"""Of processes that give way to predictions."""
_CGROUPS = Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, use, and the entry of ``memory.stat`` that is given back on demand; of version 2, then of 1."""


def memory_left(groups: Path = _CGROUPS, process: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes that may still be used before something is killed, 0 or more."""
    left = [_bytes_of(Path("/proc/meminfo"), "MemAvailable:") * 1024 or UNLIMITED]
    for line in _read(process).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = groups / controllers
            group = root / path.lstrip("/")
            # In a container the path may be of the host's tree, and the group itself be mounted as the root.
            folders = [group, *group.parents] if group.is_dir() else [root]
            left += [_left_in(folder) for folder in folders if folder.is_relative_to(root)]
    return max(0, min(left))


def within(kind: int, wanted: int) -> int:
    """Return so much of a resource, or the less that this process may have (``ulimit``, ``LimitDATA``).

    Args:
        kind: such as ``resource.RLIMIT_DATA``.
        wanted: at most so much.
    """
    hard = resource.getrlimit(kind)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def give_way(autogroup: Path = Path("/proc/self/autogroup")) -> None:
    """Lower the priority of this process below that of the server.

    Where Linux groups processes by session (``sched_autogroup_enabled``), the niceness of a process counts
    only against its own session: the niceness of the group is what counts against the server's.
    """
    os.nice(NICENESS)
    with suppress(OSError):  # no such groups here
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
