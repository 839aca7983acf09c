"""The folder where the service keeps what must outlive it: the database, and what queued jobs work on.

::

    STATE/lock             held by the one server that uses the folder
    STATE/probe            written to see whether anything can be
    STATE/server           that server's identity, the same after a restart
    STATE/jobs.sqlite      the database, unless another is given
    STATE/loads.json       which models were loaded or unloaded last, for all of the server's processes
    STATE/work/<job id>/   a job's model and data, until it ends
    STATE/metrics/<run>/   metrics of the server's processes, for one another
    STATE/workers/<n>/     lock, server and work of the server's further processes

All of it is its owner's alone: it holds what callers sent.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from service.database.connect import StoreError, writing
from service.disk import private_folder


class StateFolder:
    """A state folder, locked for as long as this object is open; the kernel unlocks it at any death.

    Args:
        path: of the folder.
        worker: which process of a server; each has a place of its own in it, and all one database.

    Attributes:
        server: identity of the process.

    Raises:
        StoreError: it cannot be made or written, or another server uses it.
    """

    def __init__(self, path: Path, worker: int = 0) -> None:
        top = path
        path = top / "workers" / str(worker) if worker else top
        self.path, self._work = path, path / "work"
        try:
            for folder in dict.fromkeys([top, path, self._work]):
                private_folder(folder)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                raise StoreError(
                    f"the state folder {path} is in use by another server; choose another with --state"
                ) from None
            self.server = self._identity()
        except OSError as error:
            raise StoreError(
                f"no jobs can be kept in {path}: {error.strerror}; choose a writable folder with --state"
            ) from error

    def _identity(self) -> str:
        file = self.path / "server"
        found = file.read_text("ascii", "replace") if file.exists() else ""
        if not re.fullmatch("[0-9a-f]{32}", found):
            found = uuid.uuid4().hex
            file.write_text(found, "ascii")
        return found

    def work(self, job_id: str) -> Path:
        """Where the job's model and data are."""
        return self._work / job_id

    def discard(self, job_id: str) -> None:
        """Deletes what the job worked on, if it is there."""
        shutil.rmtree(self.work(job_id), ignore_errors=True)

    def sweep(self, keep: Collection[str]) -> None:
        """Deletes what no job of those waits for: left by a server that was killed."""
        for path in self._work.iterdir():
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)

    def probe(self) -> None:
        """Write a page, as anything that is kept would be.

        Raises:
            StorageError: it cannot be written.
        """
        with writing("the state folder"):
            (self.path / "probe").write_bytes(bytes(4096))

    def close(self) -> None:
        """Lets another server use the folder."""
        os.close(self._lock)


def sweep_metrics(folder: Path) -> None:
    """Delete the metrics of runs other than the folder's: they were killed, as the state is ours alone."""
    with suppress(FileNotFoundError):
        for path in folder.parent.iterdir():
            if path != folder:
                shutil.rmtree(path, ignore_errors=True)
