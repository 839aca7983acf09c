"""Jobs and their results in a database: SQLite in a folder, or PostgreSQL by a URL.

A job's state moves forward only, except that the jobs of a dead server return to the queue of another::

    queued ──> running ──> done | failed
       └───────────┴─────> cancelled | interrupted

Each step is one conditional UPDATE: of two that race (a result and a cancellation, or two servers), one takes
effect and the other is reported as failed. Only the owner of a job runs, ends or fails it; a live server that
was declared dead notices at its next step. A result is committed before any caller can read it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import RowMapping, delete, exists, func, insert, select, update

from service.database.connect import StorageError, open_database, transaction
from service.database.tables import job_data, jobs, reports, servers

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
"""Pauses between retries: the first, doubled each time up to the longest."""
LEASE_SECONDS = 60.0
"""A server whose last heartbeat is older is declared dead, by servers that were awake meanwhile."""
MAX_ATTEMPTS = 2
"""Maximum attempts: a poison job, which kills the servers that run it, is then interrupted."""

log = logging.getLogger("service.jobs.store_thread")
T = TypeVar("T")


class State(StrEnum):
    """State of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        """True once the job has ended."""
        return self not in UNFINISHED


UNFINISHED = (State.QUEUED, State.RUNNING)


@dataclass(frozen=True)
class Job:
    """A job: one row of the table. Times are in seconds since 1970.

    Attributes:
        kind: "audit" or "evaluation".
        model, sha256: name of the model, and digest of its file.
        parameters: of the request, without bulk data (JSON).
        progress: share done, from 0 to 1.
        owner: the server that accepted the job or took it over, and runs it.
        attempts: number of servers that started it.
        result: of a job that is done (JSON).
        problem: kind and detail, of a job that failed or was interrupted (JSON).
        radii: certified radii of an evaluation as float64 bytes, the reference for drift.
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
    attempts: int = 0
    started: float | None = None
    finished: float | None = None
    result: str | None = None
    problem: str | None = None
    radii: bytes | None = None


_BULK = ("result", "radii")
_QUEUED = {"state": State.QUEUED, "progress": 0.0, "started": None}
_TAKEN_OVER = exists().where(job_data.c.job_id == jobs.c.id) & (jobs.c.attempts < MAX_ATTEMPTS)
"""Condition of the jobs of dead servers that are taken over: their data are stored, and attempts left."""


class Store:
    """Jobs in a database. Every method blocks for about a millisecond, and may be called from any thread.

    Every method raises StoreError where the database does not respond.

    Args:
        url: of the database, see :func:`~service.database.connect.open_database`.
        server: identity of this server, unique and the same after a restart.

    Attributes:
        shared: True if other servers may use the database: then they take over one another's jobs.

    Raises:
        StoreError: the database cannot be opened, or its tables are not those of this service.
    """

    def __init__(self, url: str, server: str) -> None:
        self.server = server
        self._engine = open_database(url)
        self.shared = self._engine.dialect.name != "sqlite"
        self._awake_since = self._last_beat = -math.inf
        self.beat()

    def add(self, job: Job, content: Iterable[bytes] = ()) -> None:
        """Store a new job.

        Args:
            job: the job.
            content: its data in parts, for a server that takes it over.
        """
        with transaction(self._engine) as connection:
            connection.execute(insert(jobs).values(vars(job)))
            for number, part in enumerate(content):
                connection.execute(insert(job_data).values(job_id=job.id, part=number, content=part))

    def parts(self, job_id: str) -> Iterator[bytes]:
        """Yield the parts of an unfinished job's data."""
        number = 0
        while True:
            query = select(job_data.c.content).where(job_data.c.job_id == job_id, job_data.c.part == number)
            with transaction(self._engine) as connection:
                part = connection.execute(query).scalar()
            if part is None:
                return
            yield part
            number += 1

    def get(self, job_id: str, *, bulk: bool = True) -> Job | None:
        """Return a job, or None; without ``bulk``, without its result and radii."""
        columns = [c for c in jobs.c if bulk or c.name not in _BULK]
        with transaction(self._engine) as connection:
            row = connection.execute(select(*columns).where(jobs.c.id == job_id)).mappings().first()
        return None if row is None else _job(row)

    def page(self, kind: str, limit: int, before: Job | None = None) -> Sequence[Job]:
        """Return the newest jobs of a kind, without results and radii.

        Args:
            kind: "audit" or "evaluation".
            limit: number of jobs.
            before: return the newest jobs older than this one.
        """
        query = select(*(c for c in jobs.c if c.name not in _BULK)).where(jobs.c.kind == kind)
        if before is not None:
            same = (jobs.c.created == before.created) & (jobs.c.id < before.id)
            query = query.where((jobs.c.created < before.created) | same)
        query = query.order_by(jobs.c.created.desc(), jobs.c.id.desc()).limit(limit)
        with transaction(self._engine) as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def start(self, job_id: str) -> bool:
        """Move a job from queued to running; return False where it must not run: cancelled, or not owned."""
        return self._step(
            job_id,
            (State.QUEUED,),
            state=State.RUNNING,
            started=time.time(),
            attempts=jobs.c.attempts + 1,
        )

    def set_progress(self, job_id: str, share: float) -> bool:
        """Store the progress; return False where the job must stop: it no longer runs, or is not owned."""
        return self._step(job_id, (State.RUNNING,), progress=share)

    def finish(
        self, job_id: str, state: State, *, report: Mapping[str, bytes] | None = None, **values: Any
    ) -> bool:
        """Move an unfinished job to a final state; return False where it already has one, which stays.

        A job of another server can only be cancelled. ``report`` has files by name, ``values`` other columns.
        """
        files = [{"job_id": job_id, "name": name, "content": file} for name, file in (report or {}).items()]
        return self._step(job_id, UNFINISHED, files, state=state, finished=time.time(), **values)

    def report_file(self, job_id: str, name: str) -> bytes | None:
        """Return a file of a job's report, or None."""
        columns = reports.c
        query = select(columns.content).where(columns.job_id == job_id, columns.name == name)
        with transaction(self._engine) as connection:
            return connection.execute(query).scalar()

    def requeue_running(self) -> int:
        """Requeue the jobs that this server was running when it stopped; return their number."""
        running = (jobs.c.owner == self.server) & (jobs.c.state == State.RUNNING) & _TAKEN_OVER
        with transaction(self._engine) as connection:
            return connection.execute(update(jobs).where(running).values(**_QUEUED)).rowcount

    def adopt(self, limit: int) -> Sequence[str]:
        """Take over unfinished jobs of dead servers, the oldest first; return their ids.

        Rows are locked, and rows locked by another server skipped, so that one server takes over each job.
        """
        found = select(jobs.c.id).where(self._orphaned(), _TAKEN_OVER).order_by(jobs.c.created, jobs.c.id)
        with transaction(self._engine) as connection:
            ids = connection.execute(found.limit(limit).with_for_update(skip_locked=True)).scalars().all()
            connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(**_QUEUED, owner=self.server))
        return ids

    def interrupt_running(self, problem: str) -> int:
        """Interrupt the jobs that this server was running when it stopped; return their number."""
        return self._interrupt((jobs.c.owner == self.server) & (jobs.c.state == State.RUNNING), problem)

    def interrupt_orphans(self, problem: str) -> int:
        """Interrupt the jobs of dead servers that cannot be taken over; return their number."""
        return self._interrupt(self._orphaned() & ~_TAKEN_OVER, problem)

    def prune(self, keep: int) -> int:
        """Delete all finished jobs but the ``keep`` newest; return the number deleted."""
        ended = select(jobs.c.id).where(jobs.c.state.not_in(UNFINISHED))
        oldest = ended.order_by(jobs.c.created.desc(), jobs.c.id.desc()).offset(keep)
        with transaction(self._engine) as connection:
            ids = connection.execute(oldest).scalars().all()
            connection.execute(delete(reports).where(reports.c.job_id.in_(ids)))
            connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
        return len(ids)

    def queued(self) -> Sequence[str]:
        """Return the ids of this server's queued jobs, the oldest first."""
        queued = (jobs.c.owner == self.server) & (jobs.c.state == State.QUEUED)
        with transaction(self._engine) as connection:
            query = select(jobs.c.id).where(queued).order_by(jobs.c.created, jobs.c.id)
            return list(connection.execute(query).scalars())

    def count(self) -> dict[State, int]:
        """Return the number of jobs in each state."""
        query = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        with transaction(self._engine) as connection:
            found = {State(state): count for state, count in connection.execute(query)}
        return {state: found.get(state, 0) for state in State}

    def beat(self) -> None:
        """Renew this server's lease."""
        now = time.time()
        with transaction(self._engine) as connection:
            renewed = update(servers).where(servers.c.id == self.server).values(heard_of=now)
            if not connection.execute(renewed).rowcount:
                connection.execute(insert(servers).values(id=self.server, heard_of=now))
        before, self._last_beat = self._last_beat, time.time()
        if self._last_beat - before > LEASE_SECONDS / 2:
            # This machine slept, or the database was down, perhaps for the other servers as well: they get a
            # whole lease from now on to send a heartbeat.
            self._awake_since = self._last_beat

    def leave(self) -> None:
        """End this server's lease, so that others take over its jobs at once."""
        with transaction(self._engine) as connection:
            connection.execute(delete(servers).where(servers.c.id == self.server))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _step(
        self, job_id: str, states: tuple[State, ...], files: Sequence[dict[str, Any]] = (), **values: Any
    ) -> bool:
        change = update(jobs).where(jobs.c.id == job_id, jobs.c.state.in_(states)).values(**values)
        state = values.get("state")
        if state is not State.CANCELLED:
            change = change.where(jobs.c.owner == self.server)
        with transaction(self._engine) as connection:
            taken = connection.execute(change).rowcount == 1
            if taken and state is not None and state.final:
                connection.execute(delete(job_data).where(job_data.c.job_id == job_id))
            if taken and files:
                connection.execute(insert(reports), files)
            return taken

    def _orphaned(self) -> Any:
        lapsed = time.time() - LEASE_SECONDS
        alive = select(servers.c.id).where(
            servers.c.heard_of > (lapsed if self._awake_since <= lapsed else -math.inf)
        )
        return jobs.c.state.in_(UNFINISHED) & jobs.c.owner.not_in(alive)

    def _interrupt(self, condition: Any, problem: str) -> int:
        ended = {"state": State.INTERRUPTED, "finished": time.time(), "problem": problem}
        with transaction(self._engine) as connection:
            count = connection.execute(update(jobs).where(condition).values(ended)).rowcount
            if count:
                interrupted = select(jobs.c.id).where(jobs.c.state == State.INTERRUPTED)
                connection.execute(delete(job_data).where(job_data.c.job_id.in_(interrupted)))
            return count


def _job(row: RowMapping) -> Job:
    return Job(**{**row, "state": State(row["state"])})


class StoreThread:
    """One thread for all calls of a store, so that the event loop never waits for a disk."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "store")

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a function called in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def retry(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a function, called until the database responds: it may be restarting."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self.run(function, *arguments)
            except StorageError as error:
                log.error("%s; trying again", error)
            except Exception:
                log.exception("the database of jobs does not respond; trying again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def close(self) -> None:
        """Wait for the running call, and end the thread."""
        self._thread.shutdown()
