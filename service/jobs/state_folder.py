"""State folder of a server: the database, and the data of unfinished jobs.

::

    STATE/lock             locked by the one server that uses the folder
    STATE/probe            rewritten to test that the disk can be written
    STATE/server           identity of that server, the same after a restart
    STATE/jobs.sqlite      the database, unless the settings name another
    STATE/loads.json       last load or unload of each model, shared by the server's processes
    STATE/work/<job id>/   model and data of a job, until it ends
    STATE/metrics/<run>/   metrics, shared by the server's processes
    STATE/workers/<n>/     lock, server and work of the server's further processes

Only its owner can read the folder: it contains data of callers.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from service.database.connect import StoreError, writing
from service.disk import private_folder

PART_BYTES = 2**20
"""Size of the parts in which a shared database stores the data of a job, for servers that take it over."""


class StateFolder:
    """A state folder, locked until it is closed or the process ends.

    Args:
        path: of the folder.
        worker: number of this process of the server; each has its own subfolder, and all share a database.

    Attributes:
        path: of the folder, or of this process's subfolder.
        server: identity of the process.

    Raises:
        StoreError: the folder cannot be created or written, or another server uses it.
    """

    def __init__(self, path: Path, worker: int = 0) -> None:
        top = path
        path = top / "workers" / str(worker) if worker else top
        self.path, self._jobs = path, path / "work"
        try:
            for folder in dict.fromkeys([top, path, self._jobs]):
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
                f"jobs cannot be stored in {path}: {error.strerror}; choose a writable folder with --state"
            ) from error

    def _identity(self) -> str:
        file = self.path / "server"
        found = file.read_text("ascii", "replace") if file.exists() else ""
        if not re.fullmatch("[0-9a-f]{32}", found):
            found = uuid.uuid4().hex
            file.write_text(found, "ascii")
        return found

    def job(self, job_id: str) -> Path:
        """Return the folder of a job's model and data."""
        return self._jobs / job_id

    def discard(self, job_id: str) -> None:
        """Delete a job's model and data, if they exist."""
        shutil.rmtree(self.job(job_id), ignore_errors=True)

    def sweep(self, keep: Collection[str]) -> None:
        """Delete the folders of all jobs but these, left by a server that was killed."""
        for path in self._jobs.iterdir():
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)

    def probe(self) -> None:
        """Write a page, to test that the disk can be written.

        Raises:
            StorageError: the disk cannot be written.
        """
        with writing("the state folder"):
            (self.path / "probe").write_bytes(bytes(4096))

    def close(self) -> None:
        """Unlock the folder."""
        os.close(self._lock)


def sweep_metrics(folder: Path) -> None:
    """Delete the metrics of other runs: their servers were killed, as this one holds the lock."""
    with suppress(FileNotFoundError):
        for path in folder.parent.iterdir():
            if path != folder:
                shutil.rmtree(path, ignore_errors=True)


def parts_of(folder: Path) -> Iterator[bytes]:
    """Yield an archive of a folder in parts."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(folder, arcname=".")
        file.seek(0)
        while part := file.read(PART_BYTES):
            yield part


def unpack(parts: Iterator[bytes], folder: Path) -> None:
    """Extract an archive in parts to a folder.

    Raises:
        OSError: the folder cannot be written.
        tarfile.TarError: the archive is incomplete or damaged.
    """
    with tempfile.TemporaryFile() as file:
        for part in parts:
            file.write(part)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            archive.extractall(folder, filter="data")
