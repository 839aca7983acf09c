"""Jobs and their results in a database: SQLite in a folder, or PostgreSQL by a URL.

A job's state moves one way only::

    queued ──> running ──> done | failed
       └───────────┴─────> cancelled | interrupted

Each step is one conditional UPDATE, so of two that would both take it (a result and a cancellation, two
servers) one wins and the other is told. A result is committed before anybody hears of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Column,
    Float,
    LargeBinary,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from service.database import open_database, transaction

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


_metadata = MetaData()
_jobs = Table(
    "jobs",
    _metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False, index=True),
    Column("model", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("parameters", Text, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("progress", Float, nullable=False),
    Column("owner", String(32), nullable=False),
    Column("created", Float, nullable=False, index=True),
    Column("started", Float),
    Column("finished", Float),
    Column("result", Text),
    Column("problem", Text),
    Column("radii", LargeBinary),
)
_reports = Table(
    "reports",
    _metadata,
    Column("job_id", String(32), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
_servers = Table(
    "servers",
    _metadata,
    Column("id", String(32), primary_key=True),
    Column("heard_of", Float, nullable=False),
)
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
        self._engine = open_database(url, _metadata)
        self.beat()

    def add(self, job: Job) -> None:
        """Keeps a new job."""
        with transaction(self._engine) as connection:
            connection.execute(insert(_jobs).values(vars(job)))

    def get(self, job_id: str, *, bulk: bool = True) -> Job | None:
        """The job of that id, or None; without ``bulk`` its result and radii are left out."""
        columns = [c for c in _jobs.c if bulk or c.name not in _BULK]
        with transaction(self._engine) as connection:
            row = connection.execute(select(*columns).where(_jobs.c.id == job_id)).mappings().first()
        return None if row is None else _job(row)

    def page(self, kind: str, limit: int, before: Job | None = None) -> Sequence[Job]:
        """The newest jobs of a kind, or those older than one of them; without results."""
        query = select(*(c for c in _jobs.c if c.name not in _BULK)).where(_jobs.c.kind == kind)
        if before is not None:
            same = (_jobs.c.created == before.created) & (_jobs.c.id < before.id)
            query = query.where((_jobs.c.created < before.created) | same)
        query = query.order_by(_jobs.c.created.desc(), _jobs.c.id.desc()).limit(limit)
        with transaction(self._engine) as connection:
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
        columns = _reports.c
        query = select(columns.content).where(columns.job_id == job_id, columns.name == name)
        with transaction(self._engine) as connection:
            return connection.execute(query).scalar()

    def interrupt_running(self, problem: str) -> int:
        """Marks what this server was running when it stopped; returns how many jobs."""
        return self._interrupt((_jobs.c.owner == self.server) & (_jobs.c.state == State.RUNNING), problem)

    def interrupt_orphans(self, problem: str) -> int:
        """Marks unfinished jobs of servers that are dead; returns how many."""
        alive = select(_servers.c.id).where(_servers.c.heard_of > time.time() - LEASE_SECONDS)
        orphaned = _jobs.c.state.in_(UNFINISHED) & _jobs.c.owner.not_in(alive)
        return self._interrupt(orphaned, problem)

    def prune(self, keep: int) -> int:
        """Deletes the oldest jobs that have ended, all but so many; returns how many."""
        ended = select(_jobs.c.id).where(_jobs.c.state.not_in(UNFINISHED))
        oldest = ended.order_by(_jobs.c.created.desc(), _jobs.c.id.desc()).offset(keep)
        with transaction(self._engine) as connection:
            ids = connection.execute(oldest).scalars().all()
            connection.execute(delete(_reports).where(_reports.c.job_id.in_(ids)))
            connection.execute(delete(_jobs).where(_jobs.c.id.in_(ids)))
        return len(ids)

    def queued(self) -> Sequence[str]:
        """Ids of this server's queued jobs, the oldest first."""
        mine = (_jobs.c.owner == self.server) & (_jobs.c.state == State.QUEUED)
        with transaction(self._engine) as connection:
            query = select(_jobs.c.id).where(mine).order_by(_jobs.c.created, _jobs.c.id)
            return list(connection.execute(query).scalars())

    def count(self) -> dict[State, int]:
        """How many jobs there are in each state."""
        query = select(_jobs.c.state, func.count()).group_by(_jobs.c.state)
        with transaction(self._engine) as connection:
            found = {State(state): count for state, count in connection.execute(query)}
        return {state: found.get(state, 0) for state in State}

    def beat(self) -> None:
        """Lets other servers know that this one is alive."""
        now = time.time()
        with transaction(self._engine) as connection:
            mine = update(_servers).where(_servers.c.id == self.server).values(heard_of=now)
            if not connection.execute(mine).rowcount:
                connection.execute(insert(_servers).values(id=self.server, heard_of=now))

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def _step(
        self, job_id: str, states: tuple[State, ...], files: Sequence[dict[str, Any]] = (), **values: Any
    ) -> bool:
        change = update(_jobs).where(_jobs.c.id == job_id, _jobs.c.state.in_(states)).values(**values)
        with transaction(self._engine) as connection:
            taken = connection.execute(change).rowcount == 1
            if taken and files:
                connection.execute(insert(_reports), files)
            return taken

    def _interrupt(self, condition: Any, problem: str) -> int:
        change = (
            update(_jobs)
            .where(condition)
            .values(state=State.INTERRUPTED, finished=time.time(), problem=problem)
        )
        with transaction(self._engine) as connection:
            return connection.execute(change).rowcount


def _job(row: RowMapping) -> Job:
    return Job(**{**row, "state": State(row["state"])})
