"""Jobs and their results in a database: SQLite in a folder, or PostgreSQL by a URL.

A job's state moves one way only, but that what a server of a shared database had is taken over when it dies::

    queued ──> running ──> done | failed
       └───────────┴─────> cancelled | interrupted

Each step is one conditional UPDATE, so of two that would both take it (a result and a cancellation, two
servers) one wins and the other is told. Only the server that has a job runs, ends or fails it; one that was
taken for dead and was not finds out at its next step. A result is committed before anybody hears of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import RowMapping, delete, exists, func, insert, select, update

from service.database.connect import open_database, transaction
from service.database.tables import jobs, reports, servers, work

LEASE_SECONDS = 60.0
"""A server that has not been heard of for so long is taken for dead, by those that were awake meanwhile."""
MOST_ATTEMPTS = 2
"""A job that was being run by so many servers when they died may be what they died of."""


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
        owner: the server that took the job, or took it over, and runs it.
        attempts: how many servers began it.
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
    attempts: int = 0
    started: float | None = None
    finished: float | None = None
    result: str | None = None
    problem: str | None = None
    radii: bytes | None = None


_BULK = ("result", "radii")
_QUEUED = {"state": State.QUEUED, "progress": 0.0, "started": None}
_TAKEN_OVER = exists().where(work.c.job_id == jobs.c.id) & (jobs.c.attempts < MOST_ATTEMPTS)
"""What is, of the jobs of dead servers."""


class Store:
    """The database. Every method blocks for about a millisecond, and may be called from any thread.

    Where the database does not answer, every method raises a StoreError.

    Args:
        url: of SQLAlchemy: ``sqlite:///file`` or ``postgresql+psycopg://…``.
        server: the caller's identity; the same after a restart, no other server's.

    Attributes:
        shared: whether servers on other machines may use it: then they take over one another's jobs.

    Raises:
        StoreError: the database cannot be opened or is not one of ours.
    """

    def __init__(self, url: str, server: str) -> None:
        self.server = server
        self._engine = open_database(url)
        self.shared = self._engine.dialect.name != "sqlite"
        self._awake = self._heard = -math.inf
        self.beat()

    def add(self, job: Job, content: Iterable[bytes] = ()) -> None:
        """Keeps a new job, and parts of what it works on for whoever may take it over."""
        with transaction(self._engine) as connection:
            connection.execute(insert(jobs).values(vars(job)))
            for number, part in enumerate(content):
                connection.execute(insert(work).values(job_id=job.id, part=number, content=part))

    def work(self, job_id: str) -> Iterator[bytes]:
        """The parts that :meth:`add` was given, as long as the job has not ended."""
        number = 0
        while True:
            query = select(work.c.content).where(work.c.job_id == job_id, work.c.part == number)
            with transaction(self._engine) as connection:
                part = connection.execute(query).scalar()
            if part is None:
                return
            yield part
            number += 1

    def get(self, job_id: str, *, bulk: bool = True) -> Job | None:
        """The job of that id, or None; without ``bulk`` its result and radii are left out."""
        columns = [c for c in jobs.c if bulk or c.name not in _BULK]
        with transaction(self._engine) as connection:
            row = connection.execute(select(*columns).where(jobs.c.id == job_id)).mappings().first()
        return None if row is None else _job(row)

    def page(self, kind: str, limit: int, before: Job | None = None) -> Sequence[Job]:
        """The newest jobs of a kind, or those older than one of them; without results."""
        query = select(*(c for c in jobs.c if c.name not in _BULK)).where(jobs.c.kind == kind)
        if before is not None:
            same = (jobs.c.created == before.created) & (jobs.c.id < before.id)
            query = query.where((jobs.c.created < before.created) | same)
        query = query.order_by(jobs.c.created.desc(), jobs.c.id.desc()).limit(limit)
        with transaction(self._engine) as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def start(self, job_id: str) -> bool:
        """Queued → running; False where it is no longer queued or another's, and must not be run."""
        return self._step(
            job_id,
            (State.QUEUED,),
            state=State.RUNNING,
            started=time.time(),
            attempts=jobs.c.attempts + 1,
        )

    def tell_progress(self, job_id: str, share: float) -> bool:
        """Keeps the progress; False where the job no longer runs or is another's, and must be stopped."""
        return self._step(job_id, (State.RUNNING,), progress=share)

    def finish(
        self, job_id: str, state: State, *, report: Mapping[str, bytes] | None = None, **values: Any
    ) -> bool:
        """Unfinished → a final state; False where it had one already, which then stands.

        A job of another server can only be cancelled.

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
        with transaction(self._engine) as connection:
            return connection.execute(query).scalar()

    def requeue_running(self) -> int:
        """Puts back into the queue what this server was running when it stopped; returns how many jobs."""
        mine = (jobs.c.owner == self.server) & (jobs.c.state == State.RUNNING) & _TAKEN_OVER
        with transaction(self._engine) as connection:
            return connection.execute(update(jobs).where(mine).values(**_QUEUED)).rowcount

    def adopt(self, most: int) -> Sequence[str]:
        """Takes over unfinished jobs of dead servers, the oldest first; returns their ids.

        Rows are locked, and those that another server locks are passed over: a job is taken over once.
        """
        found = select(jobs.c.id).where(self._orphaned(), _TAKEN_OVER).order_by(jobs.c.created, jobs.c.id)
        with transaction(self._engine) as connection:
            ids = connection.execute(found.limit(most).with_for_update(skip_locked=True)).scalars().all()
            mine = update(jobs).where(jobs.c.id.in_(ids)).values(**_QUEUED, owner=self.server)
            connection.execute(mine)
        return ids

    def interrupt_running(self, problem: str) -> int:
        """Marks what this server was running when it stopped; returns how many jobs."""
        return self._interrupt((jobs.c.owner == self.server) & (jobs.c.state == State.RUNNING), problem)

    def interrupt_orphans(self, problem: str) -> int:
        """Marks unfinished jobs of servers that are dead, but for those taken over; returns how many."""
        return self._interrupt(self._orphaned() & ~_TAKEN_OVER, problem)

    def prune(self, keep: int) -> int:
        """Deletes the oldest jobs that have ended, all but so many; returns how many."""
        ended = select(jobs.c.id).where(jobs.c.state.not_in(UNFINISHED))
        oldest = ended.order_by(jobs.c.created.desc(), jobs.c.id.desc()).offset(keep)
        with transaction(self._engine) as connection:
            ids = connection.execute(oldest).scalars().all()
            connection.execute(delete(reports).where(reports.c.job_id.in_(ids)))
            connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
        return len(ids)

    def queued(self) -> Sequence[str]:
        """Ids of this server's queued jobs, the oldest first."""
        mine = (jobs.c.owner == self.server) & (jobs.c.state == State.QUEUED)
        with transaction(self._engine) as connection:
            query = select(jobs.c.id).where(mine).order_by(jobs.c.created, jobs.c.id)
            return list(connection.execute(query).scalars())

    def count(self) -> dict[State, int]:
        """How many jobs there are in each state."""
        query = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        with transaction(self._engine) as connection:
            found = {State(state): count for state, count in connection.execute(query)}
        return {state: found.get(state, 0) for state in State}

    def beat(self) -> None:
        """Lets other servers know that this one is alive."""
        now = time.time()
        with transaction(self._engine) as connection:
            mine = update(servers).where(servers.c.id == self.server).values(heard_of=now)
            if not connection.execute(mine).rowcount:
                connection.execute(insert(servers).values(id=self.server, heard_of=now))
        before, self._heard = self._heard, time.time()
        if self._heard - before > LEASE_SECONDS / 2:
            # The machine slept, or the database was away, perhaps for the others as well: they have a whole
            # lease from now on to be heard of.
            self._awake = self._heard

    def leave(self) -> None:
        """Lets other servers take over this one's jobs at once."""
        with transaction(self._engine) as connection:
            connection.execute(delete(servers).where(servers.c.id == self.server))

    def close(self) -> None:
        """Closes the connections."""
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
                connection.execute(delete(work).where(work.c.job_id == job_id))
            if taken and files:
                connection.execute(insert(reports), files)
            return taken

    def _orphaned(self) -> Any:
        lapsed = time.time() - LEASE_SECONDS
        alive = select(servers.c.id).where(
            servers.c.heard_of > (lapsed if self._awake <= lapsed else -math.inf)
        )
        return jobs.c.state.in_(UNFINISHED) & jobs.c.owner.not_in(alive)

    def _interrupt(self, condition: Any, problem: str) -> int:
        ended = {"state": State.INTERRUPTED, "finished": time.time(), "problem": problem}
        with transaction(self._engine) as connection:
            count = connection.execute(update(jobs).where(condition).values(ended)).rowcount
            if count:
                mine = select(jobs.c.id).where(jobs.c.state == State.INTERRUPTED)
                connection.execute(delete(work).where(work.c.job_id.in_(mine)))
            return count


def _job(row: RowMapping) -> Job:
    return Job(**{**row, "state": State(row["state"])})
