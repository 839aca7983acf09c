"""Jobs and their results in a database: SQLite in a folder, or PostgreSQL by a URL.

A job's state moves one way only::

    queued ──> running ──> done | failed
       └───────────┴─────> cancelled | interrupted

Each step is one conditional UPDATE, so of two that would both take it (a result and a cancellation, two
servers) one wins and the other is told. A result is committed before anybody hears of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, update
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from service.database import StoreError, jobs, open_database, reports, servers

LEASE_SECONDS = 60.0
"""A server that has not been heard of for so long is taken for dead, its unfinished jobs for interrupted."""


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        """Whether nothing more will come of the job."""
        return self not in UNFINISHED


UNFINISHED = (State.QUEUED, State.RUNNING)


@dataclass(frozen=True)
class Job:
    """One row. Times are in seconds since 1970, JSON is text.

    Attributes:
        kind: "audit" or "evaluation".
        model, sha256: name of the model, and digest of its file.
        parameters: what was asked for, without bulk data (JSON).
        progress: share done, from 0 to 1.
        owner: the server that took the job, and runs it.
        result: the report (JSON), once done.
        problem: of a job that failed or was interrupted: kind of the problem and detail (JSON).
        radii: of an evaluation: certified radii as float64 bytes, which drift is measured against.
    """

    id: str
    kind: str
    model: str
    sha256: str
    parameters: str
    state: State
    progress: float
    owner: str
    created: float
    started: float | None = None
    finished: float | None = None
    result: str | None = None
    problem: str | None = None
    radii: bytes | None = None


_BULK = ("result", "radii")


class Store:
    """The database. Every method blocks for about a millisecond, and may be called from any thread.

    Where the database does not answer, every method raises a StoreError.

    Args:
        url: of SQLAlchemy: ``sqlite:///file`` or ``postgresql+psycopg://…``.
        server: the caller's identity; the same after a restart, no other server's.

    Raises:
        StoreError: the database cannot be opened or is not one of ours.
    """

    def __init__(self, url: str, server: str) -> None:
        self.server = server
        try:
            self._engine = open_database(url)
            self.beat()
        except (SQLAlchemyError, ModuleNotFoundError) as error:
            raise StoreError(f"the database of jobs cannot be used: {_reason(error)}") from error

    def add(self, job: Job) -> None:
        """Keeps a new job."""
        with self._transaction() as connection:
            connection.execute(insert(jobs).values(vars(job)))

    def get(self, job_id: str, *, bulk: bool = True) -> Job | None:
        """The job of that id, or None; without ``bulk`` its result and radii are left out."""
        columns = [c for c in jobs.c if bulk or c.name not in _BULK]
        with self._transaction() as connection:
            row = connection.execute(select(*columns).where(jobs.c.id == job_id)).mappings().first()
        return None if row is None else _job(row)

    def page(self, kind: str, limit: int, before: Job | None = None) -> Sequence[Job]:
        """The newest jobs of a kind, or those older than one of them; without results."""
        query = select(*(c for c in jobs.c if c.name not in _BULK)).where(jobs.c.kind == kind)
        if before is not None:
            same = (jobs.c.created == before.created) & (jobs.c.id < before.id)
            query = query.where((jobs.c.created < before.created) | same)
        query = query.order_by(jobs.c.created.desc(), jobs.c.id.desc()).limit(limit)
        with self._transaction() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def start(self, job_id: str) -> bool:
        """Queued → running; False where it is no longer queued, and must not be run."""
        return self._step(job_id, (State.QUEUED,), state=State.RUNNING, started=time.time())

    def tell_progress(self, job_id: str, share: float) -> bool:
        """Keeps the progress; False where the job is no longer running, and must be stopped."""
        return self._step(job_id, (State.RUNNING,), progress=share)

    def finish(
        self, job_id: str, state: State, *, report: Mapping[str, bytes] | None = None, **values: Any
    ) -> bool:
        """Unfinished → a final state; False where it had one already, which then stands.

        Args:
            job_id: of the job.
            state: it came to.
            report: files by name, kept with the job.
            values: of other columns.
        """
        files = [{"job_id": job_id, "name": name, "content": file} for name, file in (report or {}).items()]
        return self._step(job_id, UNFINISHED, files, state=state, finished=time.time(), **values)

    def report_file(self, job_id: str, name: str) -> bytes | None:
        """One file of a job's report, or None."""
        columns = reports.c
        query = select(columns.content).where(columns.job_id == job_id, columns.name == name)
        with self._transaction() as connection:
            return connection.execute(query).scalar()

    def interrupt_running(self, problem: str) -> int:
        """Marks what this server was running when it stopped; returns how many jobs."""
        return self._interrupt((jobs.c.owner == self.server) & (jobs.c.state == State.RUNNING), problem)

    def interrupt_orphans(self, problem: str) -> int:
        """Marks unfinished jobs of servers that are dead; returns how many."""
        alive = select(servers.c.id).where(servers.c.heard_of > time.time() - LEASE_SECONDS)
        orphaned = jobs.c.state.in_(UNFINISHED) & jobs.c.owner.not_in(alive)
        return self._interrupt(orphaned, problem)

    def prune(self, keep: int) -> int:
        """Deletes the oldest jobs that have ended, all but so many; returns how many."""
        ended = select(jobs.c.id).where(jobs.c.state.not_in(UNFINISHED))
        oldest = ended.order_by(jobs.c.created.desc(), jobs.c.id.desc()).offset(keep)
        with self._transaction() as connection:
            ids = connection.execute(oldest).scalars().all()
            connection.execute(delete(reports).where(reports.c.job_id.in_(ids)))
            connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
        return len(ids)

    def queued(self) -> Sequence[str]:
        """Ids of this server's queued jobs, the oldest first."""
        mine = (jobs.c.owner == self.server) & (jobs.c.state == State.QUEUED)
        with self._transaction() as connection:
            query = select(jobs.c.id).where(mine).order_by(jobs.c.created, jobs.c.id)
            return list(connection.execute(query).scalars())

    def beat(self) -> None:
        """Lets other servers know that this one is alive."""
        now = time.time()
        with self._transaction() as connection:
            mine = update(servers).where(servers.c.id == self.server).values(heard_of=now)
            if not connection.execute(mine).rowcount:
                connection.execute(insert(servers).values(id=self.server, heard_of=now))

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except (OperationalError, InterfaceError) as error:
            raise StoreError(f"the database of jobs does not answer: {_reason(error)}") from error

    def _step(
        self, job_id: str, states: tuple[State, ...], files: Sequence[dict[str, Any]] = (), **values: Any
    ) -> bool:
        change = update(jobs).where(jobs.c.id == job_id, jobs.c.state.in_(states)).values(**values)
        with self._transaction() as connection:
            taken = connection.execute(change).rowcount == 1
            if taken and files:
                connection.execute(insert(reports), files)
            return taken

    def _interrupt(self, condition: Any, problem: str) -> int:
        change = (
            update(jobs)
            .where(condition)
            .values(state=State.INTERRUPTED, finished=time.time(), problem=problem)
        )
        with self._transaction() as connection:
            return connection.execute(change).rowcount


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def _job(row: RowMapping) -> Job:
    return Job(**{**row, "state": State(row["state"])})
