"""Queue of model files for the isolated checkers, small files and short checks first.

The server reads nothing of a file but its digest. A digest without a verdict waits for a check, smaller files
first; a check that does not end within a short time slice waits again, behind all others, for a longer one.
So files that take long, or hang, do not hold up the rest. One of the checkers takes short slices alone.
"""

from __future__ import annotations

import heapq
import logging
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
from service.sandbox.checker_process import CheckerProcess
from service.sandbox.resources import memory_left

SLICES = (0.5, 4.0)
"""Processor seconds of the first time slices; the last slice is the whole limit."""
PROCESSES = 2
"""Checker processes; only the first takes the last slice."""
IDLE_SECONDS = 2.0
"""Time after which an idle checker process is ended: it holds some 60 MiB."""
RETRY_FACTOR = 1.5
"""A check that ran out of memory is repeated once the limit has grown by this factor."""

log = logging.getLogger(__name__)


class File(NamedTuple):
    """A model file with its digest.

    Attributes:
        path: of the file.
        digest: SHA-256 of the file and its known weight files.
        verdict: on that digest; None where there is none.
        locations: names of its weight files, as far as a check has found any.
    """

    path: Path
    digest: str
    verdict: Verdict | None
    locations: tuple[str, ...] = ()


@dataclass(order=True)
class _Check:
    """A check that waits or runs; the smallest is the next."""

    slices: int
    size: int
    number: int
    file: File = field(compare=False)
    done: Future[Verdict] = field(compare=False, default_factory=Future)


class Checks:
    """Verdicts on model files: looked up, or obtained from isolated checkers.

    Args:
        verdicts: the verdicts known so far.
        seconds: limit of processor time of one check.
        max_bytes: limit of memory of one check; less where the container has less left.
    """

    def __init__(self, verdicts: Verdicts, *, seconds: float, max_bytes: int) -> None:
        self._verdicts, self._seconds, self._max_bytes = verdicts, seconds, max_bytes
        self._slices = (*(s for s in SLICES if s < seconds), seconds)
        self._numbers = count()
        self._changed = threading.Condition()
        self._waiting: list[_Check] = []
        self._pending: dict[str, _Check] = {}
        self._checkers = [CheckerProcess() for _ in range(PROCESSES)]
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def look_up(self, path: Path) -> File:
        """Return a file with the verdict on its digest.

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
        """Queue a file for a check, which all requests for the same digest share.

        Returns:
            The future verdict. It raises OSError where no checker can be run, and FileFormatError where the
            file was replaced during the check: then no verdict is stored.
        """
        with self._changed:
            check = self._pending.get(file.digest)
            if check is None:
                size = file.path.stat().st_size if file.path.exists() else 0
                check = self._pending[file.digest] = _Check(0, size, next(self._numbers), file)
                check.done.set_running_or_notify_cancel()  # others may wait for it: no caller can cancel it
                heapq.heappush(self._waiting, check)
                while len(self._threads) < PROCESSES:
                    lane = threading.Thread(target=self._run, args=[len(self._threads)], daemon=True)
                    self._threads.append(lane)
                    lane.start()
                self._changed.notify_all()
            elif not check.file.path.exists():  # the file of an abandoned upload; this one is equal to it
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
        """Write verdicts that the database could not take before: other processes wait for them."""
        with suppress(StoreError):
            self._verdicts.write()

    def stop(self) -> None:
        """Kill all checkers; files that wait for a check get no verdict."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for checker in self._checkers:
            checker.end()

    def _outgrown(self, verdict: Verdict) -> bool:
        """Return whether the limits that a check ran into are larger by now."""
        if verdict.max_bytes is not None:
            return min(self._max_bytes, memory_left() // PROCESSES) >= RETRY_FACTOR * verdict.max_bytes
        return verdict.seconds is not None and self._seconds > verdict.seconds

    def _run(self, lane: int) -> None:
        """Run checks in the process of one lane, until all are stopped."""
        checker, last = self._checkers[lane], len(self._slices) if lane == 0 else len(SLICES)
        while True:
            with self._changed:
                while not self._stopped and not (self._waiting and self._waiting[0].slices < last):
                    if not self._changed.wait(IDLE_SECONDS):
                        checker.end()
                if self._stopped:
                    return
                check = heapq.heappop(self._waiting)
            try:
                verdict = self._check(checker, check)
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

    def _check(self, checker: CheckerProcess, check: _Check) -> Verdict | None:
        """Give a check its next time slice; return None where it needs another."""
        file, seconds = check.file, self._slices[check.slices]
        left = memory_left() // PROCESSES
        answer = checker.check(file.path, seconds=seconds, max_bytes=self._max_bytes, left=left)
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
                return Verdict(f"checking it takes more than {limit}", seconds=self._seconds)
            case "max_bytes":
                mebibytes = answer["max_bytes"] // 2**20
                limit = f"{mebibytes} MiB, the lesser of check_bytes and what the container has left"
                reason = f"checking it takes more memory than the limit of {limit}"
                return Verdict(reason, max_bytes=answer["max_bytes"])
            case _:
                return Verdict(answer.get("reason"))
