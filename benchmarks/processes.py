"""A server as the tree of processes it is: started, paused, measured by what /proc says of it, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
GRACE_SECONDS = 10.0
"""To end by itself."""


class Tree:
    """A command and all its descendants.

    Args:
        command: to run.
        log: file for what it prints.
        environment: beside this process's own.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("wb") as output:
            self._root = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the command itself has not ended."""
        return self._root.poll() is None

    def last_words(self) -> str:
        """The last line of what it printed."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "printed nothing"

    def pids(self) -> list[int]:
        """The command's and its descendants'."""
        children: dict[int, list[int]] = {}
        for entry in PROC.iterdir():
            if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
                children.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self._root.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu_seconds(self) -> float:
        """Of user and system time so far."""
        stats = [_stat(pid) for pid in self.pids()]
        return sum(int(fields[11]) + int(fields[12]) for fields in stats if fields) / TICKS

    def resident_bytes(self) -> int:
        """Memory; pages that several of the processes share count once for each."""
        return sum(int(fields[21]) for pid in self.pids() if (fields := _stat(pid))) * os.sysconf(
            "SC_PAGESIZE"
        )

    def signal(self, number: signal.Signals) -> None:
        """Sends it to every process: SIGSTOP, so that it takes no time of others, or SIGCONT."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        """Ends every process, first by asking."""
        self.signal(signal.SIGCONT)
        pids = self.pids()
        self._root.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._root.wait(GRACE_SECONDS)
        for pid in pids:
            # Of a process that outlives its parent; its number cannot yet belong to another's.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._root.wait()


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on, numbered from 0; none where it has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
