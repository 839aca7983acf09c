"""Checks of unknown model files by isolated processes (:mod:`service.sandbox.checker`), the quick ones first.

Nothing of a file is read here but its digest. A digest without a verdict waits for a check, smaller files
first; a check that does not end within a short time slice waits again, behind all others, for a longer one.
So files that take long, or for ever, do not hold up the rest. One of the processes takes short slices alone.
"""

from __future__ import annotations

import heapq
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from lipmodel.errors import FileFormatError
from lipmodel.network.reader.external_data import digest_of
from lipmodel.network.reader.read import MAX_FILE_BYTES
from service.database.connect import StoreError
from service.models.verdicts import Verdict, Verdicts
from service.sandbox.checker import CLOCK_FACTOR
from service.sandbox.process import PACKAGES
from service.sandbox.resources import memory_left

SLICES = (0.5, 4.0)
"""Seconds of processor time of the first slices; the one that follows is the whole limit."""
PROCESSES = 2
"""Checker processes; all but the first take no slice beyond those."""
IDLE_SECONDS = 2.0
"""An idle process is ended after so long: it holds some 60 MiB."""
GRACE_SECONDS = 5.0
"""The process itself ends a check that is late; after so many seconds more it is ended with it."""
WORTH_ANOTHER = 1.5
"""A check that ran out of memory is made again once there is so many times as much."""

log = logging.getLogger(__name__)


class File(NamedTuple):
    """A model's file as it was found: its path, digest, and the verdict on that, if there is one."""

    path: Path
    digest: str
    verdict: Verdict | None
    locations: tuple[str, ...] = ()
    """Names of its weight files, as far as a check has found any."""


@dataclass(order=True)
class _Check:
    """A check that waits or runs; the smallest is the next."""

    slices: int
    size: int
    number: int
    file: File = field(compare=False)
    done: Future[Verdict] = field(compare=False, default_factory=Future)


class Checks:
    """Looks up verdicts, and has files without one checked.

    Args:
        verdicts: where they are kept.
        seconds: of processor time that one check may take.
        max_bytes: of memory that it may write into; less where less is left to the container.
    """

    def __init__(self, verdicts: Verdicts, *, seconds: float, max_bytes: int) -> None:
        self._verdicts, self._seconds, self._max_bytes = verdicts, seconds, max_bytes
        self._slices = (*(s for s in SLICES if s < seconds), seconds)
        self._numbers = count()
        self._changed = threading.Condition()
        self._waiting: list[_Check] = []
        self._pending: dict[str, _Check] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def look_up(self, path: Path) -> File:
        """Find the verdict on a file by its digest.

        Raises:
            FileFormatError: the file is too large, or cannot be read.
        """
        try:
            digest = digest_of(path, max_bytes=MAX_FILE_BYTES)
            verdict = self._verdicts.get(digest)
            locations = verdict.locations if verdict is not None else ()
            if locations:
                digest = digest_of(path, locations, max_bytes=MAX_FILE_BYTES)
                verdict = self._verdicts.get(digest)
        except OSError as error:
            raise FileFormatError(f"the file cannot be read: {error.strerror or error}") from error
        return File(path, digest, None if verdict and self._outgrown(verdict) else verdict, locations)

    def submit(self, file: File) -> Future[Verdict]:
        """Have a file checked, once for all who ask at a time.

        Returns:
            The verdict to come; an OSError where no process can be run, a FileFormatError where the file
            was replaced meanwhile: then no verdict is kept.
        """
        with self._changed:
            check = self._pending.get(file.digest)
            if check is None:
                size = file.path.stat().st_size if file.path.exists() else 0
                check = self._pending[file.digest] = _Check(0, size, next(self._numbers), file)
                check.done.set_running_or_notify_cancel()  # others wait for it, too: nobody may cancel it
                heapq.heappush(self._waiting, check)
                while len(self._threads) < PROCESSES:
                    lane = threading.Thread(target=self._work, args=[len(self._threads)], daemon=True)
                    self._threads.append(lane)
                    lane.start()
                self._changed.notify_all()
            elif not check.file.path.exists():  # an upload that was given up; this is the same file elsewhere
                check.file = file
            return check.done

    def decided(self, digest: str) -> bool:
        """Return whether there is a verdict on a digest by now."""
        return self._verdicts.get(digest) is not None

    def forget(self, path: Path) -> None:
        """Delete the verdict on a file."""
        with suppress(FileFormatError):
            self._verdicts.forget(self.look_up(path).digest)

    def write_verdicts(self) -> None:
        """Write the verdicts that could not be written before; without them other processes wait for ever."""
        with suppress(StoreError):
            self._verdicts.write()

    def read_again(self) -> None:
        """Look verdicts up in the database from now on, where another process may have deleted some."""
        self._verdicts.recent.clear()

    def stop(self) -> None:
        """End all processes; files that wait for a check get no verdict."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            for lane in tuple(self._processes):
                self._end(lane)

    def _outgrown(self, verdict: Verdict) -> bool:
        """Return whether the limits that a check ran into are larger by now."""
        if verdict.max_bytes is not None:
            return min(self._max_bytes, memory_left() // PROCESSES) >= WORTH_ANOTHER * verdict.max_bytes
        return verdict.seconds is not None and self._seconds > verdict.seconds

    def _work(self, lane: int) -> None:
        last = len(self._slices) if lane == 0 else len(SLICES)
        while True:
            with self._changed:
                while not self._stopped and not (self._waiting and self._waiting[0].slices < last):
                    if not self._changed.wait(IDLE_SECONDS):
                        self._end(lane)
                if self._stopped:
                    return
                check = heapq.heappop(self._waiting)
            try:
                verdict = self._check(lane, check)
            except Exception as error:
                if not self._stopped:
                    log.warning("%s could not be checked: %s", check.file.path, error)
                self._close(check)
                check.done.set_exception(error)
            else:
                if verdict is not None:
                    self._close(check)
                    check.done.set_result(verdict)

    def _close(self, check: _Check) -> None:
        with self._changed:
            self._pending.pop(check.file.digest, None)

    def _check(self, lane: int, check: _Check) -> Verdict | None:
        """Give a check its next time slice; None where it takes another."""
        file, seconds = check.file, self._slices[check.slices]
        answer = self._ask(lane, file.path, seconds)
        if answer.get("ran_out") == "seconds" and seconds < self._seconds:
            with self._changed:
                check.slices += 1
                heapq.heappush(self._waiting, check)
                self._changed.notify_all()
            return None
        locations = tuple(answer.get("locations", ()))
        try:
            alone = digest_of(file.path, max_bytes=MAX_FILE_BYTES)
            digest = digest_of(file.path, locations, max_bytes=MAX_FILE_BYTES) if locations else alone
        except OSError as error:
            raise FileFormatError(f"the file cannot be read: {error.strerror or error}") from error
        if file.digest not in (alone, digest) or answer.get("sha256", digest) != digest:
            raise FileFormatError("the file was replaced while it was checked")
        if locations:
            self._verdicts.put(alone, Verdict(locations=locations))
        verdict = self._verdict(answer)
        self._verdicts.put(digest, verdict)
        return verdict

    def _verdict(self, answer: dict[str, Any]) -> Verdict:
        match answer.get("ran_out"):
            case "seconds":
                limit = f"the limit of {self._seconds:g} s of processor time (check_seconds)"
                reason = f"checking it takes more than {limit}"
                return Verdict(reason, seconds=self._seconds)
            case "max_bytes":
                mebibytes = answer["max_bytes"] // 2**20
                limit = f"{mebibytes} MiB, the lesser of check_bytes and what the container has left"
                reason = f"checking it takes more memory than the limit of {limit}"
                return Verdict(reason, max_bytes=answer["max_bytes"])
            case _:
                return Verdict(answer.get("reason"))

    def _ask(self, lane: int, path: Path, seconds: float) -> dict[str, Any]:
        """Have a lane's process check a file.

        Raises:
            OSError: no process can be run.
        """
        process = self._process(lane)
        task = {
            "path": str(path),
            "seconds": seconds,
            "max_bytes": self._max_bytes,
            "left": memory_left() // PROCESSES,
        }
        timer = threading.Timer(CLOCK_FACTOR * seconds + GRACE_SECONDS, self._end, [lane])
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
        self._end(lane)
        raise OSError("the checker process ended before it answered")

    def _process(self, lane: int) -> subprocess.Popen[bytes]:
        with self._changed:
            if lane not in self._processes:
                path = os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
                self._processes[lane] = subprocess.Popen(
                    [sys.executable, "-P", "-m", "service.sandbox.checker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
                    start_new_session=True,  # the process and its fork are one group, ended together
                )
            return self._processes[lane]

    def _end(self, lane: int) -> None:
        with self._changed:
            process = self._processes.pop(lane, None)
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
