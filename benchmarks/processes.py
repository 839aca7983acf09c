"""A command and its descendants: started, paused, measured from /proc, and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
GRACE_SECONDS = 10.0
"""For the command to end after SIGTERM."""


class Tree:
    """A command (``root``) and all its descendants, with variables beside those of this process.

    Standard output and standard error go to the log.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log, self._command, self._variables = log, command, {**os.environ, **(environment or {})}
        self.start()

    def start(self) -> None:
        """Start the command, or start it again once it has ended."""
        with self.log.open("wb") as output:
            self.root = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._variables,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def running(self) -> bool:
        """Return True until the command itself has ended."""
        return self.root.poll() is None

    def last_line(self) -> str:
        """Return the last line of the log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "printed nothing"

    def pids(self) -> list[int]:
        """Return the process ids of the command and its descendants."""
        children: dict[int, list[int]] = {}
        for entry in PROC.iterdir():
            if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
                children.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self.root.pid] if self.running else []
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu_seconds(self) -> float:
        """Return the user and system time of all processes so far."""
        stats = [_stat(pid) for pid in self.pids()]
        return sum(int(fields[11]) + int(fields[12]) for fields in stats if fields) / TICKS

    def resident_bytes(self) -> int:
        """Return the memory of all processes; pages that several of them share count once for each."""
        return sum(map(resident_bytes, self.pids()))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process: SIGSTOP, so that none takes processor time, or SIGCONT."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        """End every process: SIGTERM to the command, SIGKILL to all that is left after ``GRACE_SECONDS``."""
        self.signal(signal.SIGCONT)
        pids = self.pids()
        self.root.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.root.wait(GRACE_SECONDS)
        for pid in pids:
            # A process may outlive its parent; its id cannot belong to another process yet.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.root.wait()


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none of a process that has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def resident_bytes(pid: int) -> int:
    """Return the resident memory of one process; 0 once it has ended."""
    return int(fields[21]) * os.sysconf("SC_PAGESIZE") if (fields := _stat(pid)) else 0


def free_port() -> int:
    """Return a port of 127.0.0.1 that no process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
