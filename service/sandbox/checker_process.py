"""The server's end of an isolated checker (:mod:`service.sandbox.checker`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.sandbox.checker import CLOCK_FACTOR
from service.sandbox.launch import module_command, module_environment

GRACE_SECONDS = 5.0
"""The checker itself ends a check at its limit; this long after, the checker is killed."""


class CheckerProcess:
    """A checker process, started by the first check and by the first one after its end.

    One thread at a time may call :meth:`check`; any thread may call :meth:`end`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def check(self, path: Path, *, seconds: float, max_bytes: int, left: int) -> dict[str, Any]:
        """Return the checker's answer on a file.

        Args:
            path: of the file.
            seconds: limit of processor time.
            max_bytes: limit of memory.
            left: bytes of memory that the checker may take beyond its present use; the lesser limit counts.

        Raises:
            OSError: the process cannot be started, or ended before it answered.
        """
        process = self._started()
        task = {"path": str(path), "seconds": seconds, "max_bytes": max_bytes, "left": left}
        timer = threading.Timer(CLOCK_FACTOR * seconds + GRACE_SECONDS, self.end)
        timer.start()
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        try:
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
        if line.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.end()
        raise OSError("the checker process ended before it answered")

    def end(self) -> None:
        """Kill the process and its fork, if they run."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    module_command("service.sandbox.checker"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=module_environment(OPENBLAS_NUM_THREADS="1"),
                    start_new_session=True,  # the process and its fork form one group, killed together
                )
            return self._process
