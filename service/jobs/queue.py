"""Queue of jobs: audits and evaluations in processes of their own, with results that survive a restart.

A job runs in an isolated process (:mod:`service.sandbox.worker`): it is cancelled by killing that process,
its crash affects nothing else, and it shares no lock with predictions. Jobs that are queued when the service
dies run after the restart; jobs that were running are marked ``interrupted`` and not repeated, since one of
them may have brought the service down.

Servers that share a database (PostgreSQL) also store the data of queued jobs there. When a server dies, the
others take over its jobs, running ones included, once; so each job is done, and its result stored, once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from service.database.connect import StorageError, StoreError, writing
from service.jobs.state_folder import StateFolder, parts_of, unpack
from service.jobs.store import LEASE_SECONDS, Job, State, Store, StoreThread
from service.models.registry import Model
from service.problems import Problem, ProblemKind
from service.sandbox.process import POLL_SECONDS, TASK_FILE, JobProcess, Outcome, problem

TYPICAL_SECONDS = 5.0
"""Estimated duration of a job before any has run."""
PROBE_SECONDS = 1.0
"""Least time between two test writes."""

log = logging.getLogger(__name__)
Fill = Callable[[Path], None]


@dataclass
class _Live:
    """State of an unfinished job that only its own server has."""

    progress: float = 0.0
    running: bool = False
    stored: float = 0.0
    process: JobProcess | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def announce(self) -> None:
        """Wake all watchers; later changes set a new event."""
        self.changed.set()
        self.changed = asyncio.Event()


class Jobs:
    """The jobs of one server.

    Args:
        store: database of jobs and results.
        folder: folder of the data of unfinished jobs.
        workers: number of jobs that run at a time.
        max_queued: limit of queued jobs.
        kept: number of finished jobs to keep.
        seconds: time limit of a job.
        max_bytes: limit of memory of a job.
    """

    def __init__(
        self,
        store: Store,
        folder: StateFolder,
        *,
        workers: int,
        max_queued: int,
        kept: int,
        seconds: float,
        max_bytes: int,
    ) -> None:
        self._store, self._folder = store, folder
        self._workers, self._max_queued, self._seconds = workers, max_queued, seconds
        self._kept, self._max_bytes = kept, max_bytes
        self._live: dict[str, _Live] = {}
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._thread = StoreThread()
        self._typical_seconds = TYPICAL_SECONDS
        self._stopping = False
        self._probed = -math.inf
        self._fault: str | None = None

    async def start(self) -> None:
        """Interrupt or requeue the jobs of the run before, and start to work."""
        interrupted = problem("job-interrupted", "the server stopped while the job was running")
        if self._store.shared:
            await self._thread.run(self._store.requeue_running)
        await self._thread.run(self._store.interrupt_running, interrupted)
        for job_id in await self._thread.run(self._store.queued):
            if self._folder.job(job_id).is_dir():
                self._live[job_id] = _Live()
                self._queue.put_nowait(job_id)
            else:
                await self._thread.run(self._interrupt, job_id, "the data of the job is missing")
        self._folder.sweep(self._live.keys())
        loops = [self._beat(), *(self._run_queued() for _ in range(self._workers))]
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def stop(self) -> None:
        """Interrupt the running jobs and end all watches; queued jobs stay queued for the next start."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._store.shared:
            with suppress(StoreError):
                await self._thread.run(self._store.leave)
        for live in self._live.values():
            live.announce()

    def close(self) -> None:
        """Close the database and the folder, after :meth:`stop`."""
        self._thread.close()
        self._store.close()
        self._folder.close()

    async def submit(
        self, kind: str, model: Model, parameters: dict[str, Any], options: dict[str, Any], fill: Fill
    ) -> Job:
        """Queue a job and return it.

        Args:
            kind: "audit" or "evaluation".
            model: to audit or evaluate, in its present version.
            parameters: stored and returned with the job, as JSON types.
            options: for the job's process.
            fill: writes the job's data into a folder; called in a thread.

        Raises:
            Problem: 429, the limit of queued jobs is reached.
            InputError, DataError: ``fill`` refused the data.
            StorageError: the job cannot be stored.
        """
        queued = sum(not live.running for live in self._live.values())
        if queued >= self._max_queued:
            wait = math.ceil(min(max(self._typical_seconds / self._workers, 1), 3600))
            detail = f"limit of queued jobs reached ({queued} queued); try again in {wait} s"
            raise Problem(ProblemKind.QUEUE_FULL, detail, headers={"Retry-After": str(wait)})
        file = model.predictor.file
        job = Job(
            id=uuid.uuid4().hex,
            kind=kind,
            model=model.name,
            sha256=file.sha256,
            parameters=json.dumps(parameters),
            state=State.QUEUED,
            progress=0.0,
            owner=self._store.server,
            created=time.time(),
        )
        execution = model.settings.execution
        task = json.dumps({"kind": kind, "sha256": file.sha256, "execution": execution, "options": options})
        self._live[job.id] = _Live()
        try:
            folder = self._folder.job(job.id)
            await asyncio.to_thread(_write, folder, file.content, task, fill)
            await self._thread.run(self._store.add, job, parts_of(folder) if self._store.shared else ())
        except BaseException:
            del self._live[job.id]
            await asyncio.to_thread(self._folder.discard, job.id)
            raise
        self._queue.put_nowait(job.id)
        return job

    async def get(self, job_id: str, *, bulk: bool = True) -> Job | None:
        """Return a job with its present progress, or None; without ``bulk``, without result and radii."""
        job = await self._thread.run(partial(self._store.get, bulk=bulk), job_id)
        live = self._live.get(job_id)
        return job if job is None or live is None else replace(job, progress=live.progress)

    async def count(self, seconds: float) -> dict[State, int] | None:
        """Return the number of jobs in each state; None where the database does not respond in time."""
        try:
            async with asyncio.timeout(seconds):
                return await self._thread.run(self._store.count)
        except Exception:
            log.warning("the database of jobs does not respond")
            return None

    async def fault(self, seconds: float) -> str | None:
        """Return why no job could be stored now, or None; log changes of the answer."""
        try:
            async with asyncio.timeout(seconds):
                await self._thread.run(self._probe)
            fault = None
        except StorageError as error:
            fault = f"jobs cannot be stored: {error.cause}"
        except Exception:
            fault = "the database of jobs does not respond"
        if fault != self._fault:
            log.error("%s", fault) if fault else log.warning("jobs can be stored again")
            self._fault = fault
        return fault

    def _probe(self) -> None:
        """Write to the database and the state folder, at most once in PROBE_SECONDS."""
        if time.monotonic() - self._probed >= PROBE_SECONDS:
            self._store.beat()
            self._folder.probe()
            self._probed = time.monotonic()

    async def report_file(self, job_id: str, name: str) -> bytes | None:
        """Return a file of a job's report, or None."""
        return await self._thread.run(self._store.report_file, job_id, name)

    async def page(self, kind: str, limit: int, before: Job | None) -> list[Job]:
        """Return the newest jobs of a kind, see :meth:`service.jobs.store.Store.page`."""
        return list(await self._thread.run(self._store.page, kind, limit, before))

    async def watch(self, job_id: str, idle: float) -> AsyncIterator[Job]:
        """Yield the job now, at every change and every ``idle`` seconds, and at its end."""
        while True:
            live = self._live.get(job_id)
            changed = live.changed if live else None  # before the job is read, so that no change is missed
            job = await self.get(job_id, bulk=False)
            if job is None:
                return
            yield job
            if job.state.final or self._stopping:
                return
            with suppress(TimeoutError):
                if changed is None:  # a job of another server
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    async with asyncio.timeout(idle):
                        await changed.wait()

    async def wait(self, job_id: str, seconds: float) -> Job:
        """Return the job once it has ended, or as it is after ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for _ in self.watch(job_id, seconds):
                    pass
        job = await self.get(job_id)
        assert job is not None, "the newest jobs are kept"
        return job

    async def cancel(self, job_id: str) -> None:
        """Cancel a job, unless it has ended."""
        if await self._thread.run(self._store.finish, job_id, State.CANCELLED):
            live = self._live.get(job_id)
            if live is not None and live.process is not None:
                live.process.kill()
            elif live is not None and not live.running:
                await self._forget(job_id)  # which frees its place in the queue

    async def _run_queued(self) -> None:
        while True:
            await self._run(await self._queue.get())

    async def _run(self, job_id: str) -> None:
        live = self._live.get(job_id)
        if live is None:  # cancelled while it waited
            return
        live.running = True
        begun = time.monotonic()
        try:
            if await self._thread.retry(self._store.start, job_id):
                live.announce()
                live.process = JobProcess(
                    self._folder.job(job_id), seconds=self._seconds, max_bytes=self._max_bytes
                )
                try:
                    outcome = await live.process.run(partial(self._follow, job_id, live))
                except Exception:  # no process can be started: the next job may run
                    log.exception("job %s", job_id)
                    outcome = Outcome(problem=problem("job-failed", "no worker process could be run"))
                state, values = State.FAILED, vars(outcome)
                if outcome.result is not None:
                    state, values = State.DONE, {**values, "progress": 1.0}
                await self._thread.retry(partial(self._store.finish, **values), job_id, state)
                self._typical_seconds += 0.3 * (time.monotonic() - begun - self._typical_seconds)
        except asyncio.CancelledError:
            reason = "the server was stopped while the job was running"
            await self._thread.run(self._interrupt, job_id, reason)
            raise
        finally:
            await self._forget(job_id)

    def _interrupt(self, job_id: str, reason: str) -> None:
        self._store.finish(job_id, State.INTERRUPTED, problem=problem("job-interrupted", reason))

    async def _forget(self, job_id: str) -> None:
        live = self._live.pop(job_id, None)
        if live is not None:
            live.announce()
            await asyncio.to_thread(self._folder.discard, job_id)

    async def _follow(self, job_id: str, live: _Live, share: float | None) -> bool:
        """Store progress; return False where the job must stop, cancelled by another server for instance."""
        if share is not None:
            live.progress = min(max(share, live.progress), 1.0)
            live.announce()
        if time.monotonic() - live.stored < POLL_SECONDS:
            return True
        live.stored = time.monotonic()
        return await self._thread.retry(self._store.set_progress, job_id, live.progress)

    async def _beat(self) -> None:
        """Renew this server's lease, take over or interrupt jobs of dead servers, and prune, periodically."""
        orphaned = problem("job-interrupted", "the job's server died")
        begun = time.monotonic()
        while True:
            await self._thread.retry(self._store.beat)
            if self._store.shared:
                await self._adopt()
            # Without a shared database, the supervisor restarts a worker that dies, which then has its jobs
            # again; but a previous run may have had more workers.
            if self._store.shared or time.monotonic() - begun < 2 * LEASE_SECONDS:
                await self._thread.retry(self._store.interrupt_orphans, orphaned)
            await self._thread.retry(self._store.prune, self._kept)
            await asyncio.sleep(LEASE_SECONDS / 4)

    async def _adopt(self) -> None:
        """Take over jobs of dead servers, up to the limit of queued jobs."""
        room = self._max_queued - sum(not live.running for live in self._live.values())
        for job_id in await self._thread.retry(self._store.adopt, max(room, 0)):
            folder = self._folder.job(job_id)
            try:
                await self._thread.run(lambda id_, to: unpack(self._store.parts(id_), to), job_id, folder)
            except Exception:  # a full disk, for instance
                log.exception("job %s cannot be taken over", job_id)
                reason = "the job's server died, and no other could take the job over"
                await self._thread.retry(self._interrupt, job_id, reason)
                await asyncio.to_thread(self._folder.discard, job_id)
            else:
                self._live[job_id] = _Live()
                self._queue.put_nowait(job_id)


def _write(folder: Path, model: bytes, task: str, fill: Fill) -> None:
    with writing("the data of the job"):
        folder.mkdir()
        fill(folder)
        (folder / "model.onnx").write_bytes(model)
        (folder / TASK_FILE).write_text(task, "ascii")
