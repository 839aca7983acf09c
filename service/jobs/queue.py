"""Long work: a bounded queue, worker processes, progress, and results that survive a restart.

A job runs in a process of its own (:mod:`service.sandbox.worker`): cancelling it is killing that process,
its crash is nobody else's, and it shares no lock with predictions. What is queued when the service
dies is run after the restart; what was running is marked ``interrupted`` and not tried again, since
it may be what brought the service down.

Servers that share a database (PostgreSQL) keep there, too, what queued jobs work on. When one dies the others
take over its jobs, those that it was running included, once; so each is done, and its result kept, once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lipmodel.errors import LipcertError
from service.database.connect import StorageError, StoreError, writing
from service.jobs.archive import parts_of, unpack
from service.jobs.state_folder import StateFolder
from service.jobs.store import LEASE_SECONDS, Job, State, Store
from service.models.registry import Model
from service.sandbox.process import POLL_SECONDS, TASK_FILE, JobProcess, Outcome, problem

FIRST_GUESS_SECONDS = 5.0
PROBE_SECONDS = 1.0

log = logging.getLogger(__name__)
T = TypeVar("T")
Fill = Callable[[Path], None]


class QueueFullError(LipcertError):
    """As many jobs wait as may.

    Attributes:
        retry_after: seconds until one is likely to be through.
    """

    def __init__(self, queued: int, retry_after: int) -> None:
        super().__init__(f"{queued} jobs wait already, as many as may; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass
class _Live:
    """What is known here alone of a job of this server that has not ended."""

    progress: float = 0.0
    running: bool = False
    kept: float = 0.0
    process: JobProcess | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def announce(self) -> None:
        """Wakes whoever watches; the next change is another event."""
        self.changed.set()
        self.changed = asyncio.Event()


class Jobs:
    """The jobs of one server.

    Args:
        store: where they are kept.
        folder: where what they work on is kept.
        workers: how many run at a time.
        max_queued: how many may wait.
        kept: how many are kept once they have ended.
        seconds: how long one may run.
        max_bytes: how much memory one may write into.
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
        self._database = ThreadPoolExecutor(1, "store")  # the event loop never waits for a disk
        self._typical_seconds = FIRST_GUESS_SECONDS
        self._stopping = False
        self._probed = -math.inf
        self._fault: str | None = None

    async def start(self) -> None:
        """Settles what an earlier life left behind, and begins to work."""
        told = problem("job-interrupted", "the server stopped while the job was running")
        if self._store.shared:
            await self._do(self._store.requeue_running)
        await self._do(self._store.interrupt_running, told)
        for job_id in await self._do(self._store.queued):
            if self._folder.work(job_id).is_dir():
                self._live[job_id] = _Live()
                self._queue.put_nowait(job_id)
            else:
                told = problem("job-interrupted", "what the job works on is gone")
                await self._do(partial(self._store.finish, problem=told), job_id, State.INTERRUPTED)
        self._folder.sweep(self._live.keys())
        loops = [self._beat(), *(self._work() for _ in range(self._workers))]
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def stop(self) -> None:
        """Ends what runs; what is queued stays so for the next start. Watchers are let go."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._store.shared:
            with suppress(StoreError):
                await self._do(self._store.leave)
        for live in self._live.values():
            live.announce()

    def close(self) -> None:
        """After ``stop``: closes the database and the folder."""
        self._database.shutdown()
        self._store.close()
        self._folder.close()

    async def submit(
        self, kind: str, model: Model, parameters: dict[str, Any], options: dict[str, Any], fill: Fill
    ) -> Job:
        """Queue a job and return it.

        Args:
            kind: "audit" or "evaluation".
            model: to work on, as it is now.
            parameters: kept and shown, as JSON types.
            options: for the worker.
            fill: puts the job's data into the folder given; runs in a thread.

        Raises:
            QueueFullError: too many wait.
            InputError, DataError: ``fill`` refused the data.
            StorageError: the job cannot be kept.
        """
        queued = sum(not live.running for live in self._live.values())
        if queued >= self._max_queued:
            wait = math.ceil(min(max(self._typical_seconds / self._workers, 1), 3600))
            raise QueueFullError(queued, wait)
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
            folder = self._folder.work(job.id)
            await asyncio.to_thread(_write, folder, file.content, task, fill)
            await self._do(self._store.add, job, parts_of(folder) if self._store.shared else ())
        except BaseException:
            del self._live[job.id]
            await asyncio.to_thread(self._folder.discard, job.id)
            raise
        self._queue.put_nowait(job.id)
        return job

    async def get(self, job_id: str, *, bulk: bool = True) -> Job | None:
        """The job of that id as it is now, or None."""
        job = await self._do(partial(self._store.get, bulk=bulk), job_id)
        live = self._live.get(job_id)
        return job if job is None or live is None else replace(job, progress=live.progress)

    async def count(self, seconds: float) -> dict[State, int] | None:
        """How many jobs there are in each state; None where the database does not answer in that time."""
        try:
            async with asyncio.timeout(seconds):
                return await self._do(self._store.count)
        except Exception:
            log.warning("the database of jobs does not answer")
            return None

    async def fault(self, seconds: float) -> str | None:
        """Return why no job could be kept now, or None; logged where that changes."""
        try:
            async with asyncio.timeout(seconds):
                await self._do(self._probe)
            fault = None
        except StorageError as error:
            fault = f"jobs cannot be kept: {error.cause}"
        except Exception:
            fault = "the database of jobs does not answer"
        if fault != self._fault:
            log.error("%s", fault) if fault else log.warning("jobs can be kept again")
            self._fault = fault
        return fault

    def _probe(self) -> None:
        """Write to the database and the state folder, at most once in PROBE_SECONDS however often asked."""
        if time.monotonic() - self._probed >= PROBE_SECONDS:
            self._store.beat()
            self._folder.probe()
            self._probed = time.monotonic()

    async def report_file(self, job_id: str, name: str) -> bytes | None:
        """See :meth:`Store.report_file`."""
        return await self._do(self._store.report_file, job_id, name)

    async def page(self, kind: str, limit: int, before: Job | None) -> list[Job]:
        """See :meth:`Store.page`."""
        return list(await self._do(self._store.page, kind, limit, before))

    async def watch(self, job_id: str, idle: float) -> AsyncIterator[Job]:
        """The job at once, at every change and every ``idle`` seconds, until it ends; then once more."""
        while True:
            live = self._live.get(job_id)
            changed = live.changed if live else None  # taken before looking, so that no change is missed
            job = await self.get(job_id, bulk=False)
            if job is None:
                return
            yield job
            if job.state.final or self._stopping:
                return
            with suppress(TimeoutError):
                if changed is None:  # another server's
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    async with asyncio.timeout(idle):
                        await changed.wait()

    async def wait(self, job_id: str, seconds: float) -> Job:
        """The job once it has ended, or as it is after that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for _ in self.watch(job_id, seconds):
                    pass
        job = await self.get(job_id)
        assert job is not None, "the newest jobs are kept"
        return job

    async def cancel(self, job_id: str) -> None:
        """Ends a job that has not ended. One that has is left as it is."""
        if await self._do(self._store.finish, job_id, State.CANCELLED):
            live = self._live.get(job_id)
            if live is not None and live.process is not None:
                live.process.kill()
            elif live is not None and not live.running:
                await self._forget(job_id)  # its place in the queue is free at once

    async def _work(self) -> None:
        while True:
            await self._run(await self._queue.get())

    async def _run(self, job_id: str) -> None:
        live = self._live.get(job_id)
        if live is None:  # cancelled while it waited
            return
        live.running = True
        begun = time.monotonic()
        try:
            if await self._surely(self._store.start, job_id):
                live.announce()
                live.process = JobProcess(
                    self._folder.work(job_id), seconds=self._seconds, max_bytes=self._max_bytes
                )
                try:
                    outcome = await live.process.run(partial(self._follow, job_id, live))
                except Exception:  # no process is to be had: the queue goes on
                    log.exception("job %s", job_id)
                    outcome = Outcome(problem=problem("job-failed", "no worker process could be run"))
                values = vars(outcome)
                if outcome.result is not None:
                    finish = partial(self._store.finish, progress=1.0, **values)
                    await self._surely(finish, job_id, State.DONE)
                else:
                    await self._surely(partial(self._store.finish, **values), job_id, State.FAILED)
                self._typical_seconds += 0.3 * (time.monotonic() - begun - self._typical_seconds)
        except asyncio.CancelledError:
            told = problem("job-interrupted", "the server was stopped while the job was running")
            await self._do(partial(self._store.finish, problem=told), job_id, State.INTERRUPTED)
            raise
        finally:
            await self._forget(job_id)

    async def _forget(self, job_id: str) -> None:
        live = self._live.pop(job_id, None)
        if live is not None:
            live.announce()
            await asyncio.to_thread(self._folder.discard, job_id)

    async def _follow(self, job_id: str, live: _Live, share: float | None) -> bool:
        """Takes note of progress; False where the job is to stop, cancelled by another server perhaps."""
        if share is not None:
            live.progress = min(max(share, live.progress), 1.0)
            live.announce()
        if time.monotonic() - live.kept < POLL_SECONDS:
            return True
        live.kept = time.monotonic()
        return await self._surely(self._store.tell_progress, job_id, live.progress)

    async def _beat(self) -> None:
        """What is done now and then, and at once at the start."""
        told = problem("job-interrupted", "the server that had the job is gone")
        begun = time.monotonic()
        while True:
            await self._surely(self._store.beat)
            if self._store.shared:
                await self._adopt()
            # A process that shares no database is watched by its own server, which starts it again; but an
            # earlier server may have had more of them.
            if self._store.shared or time.monotonic() - begun < 2 * LEASE_SECONDS:
                await self._surely(self._store.interrupt_orphans, told)
            await self._surely(self._store.prune, self._kept)
            await asyncio.sleep(LEASE_SECONDS / 4)

    async def _adopt(self) -> None:
        """Takes over jobs of servers that are dead, as many as there is room for."""
        room = self._max_queued - sum(not live.running for live in self._live.values())
        for job_id in await self._surely(self._store.adopt, max(room, 0)):
            folder = self._folder.work(job_id)
            try:
                await self._do(lambda id_, to: unpack(self._store.work(id_), to), job_id, folder)
            except Exception:  # no room on the disk, perhaps
                log.exception("job %s cannot be taken over", job_id)
                told = problem(
                    "job-interrupted", "the server that had the job is gone, and none took it over"
                )
                await self._surely(partial(self._store.finish, problem=told), job_id, State.INTERRUPTED)
                await asyncio.to_thread(self._folder.discard, job_id)
            else:
                self._live[job_id] = _Live()
                self._queue.put_nowait(job_id)

    async def _do(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._database, function, *arguments)

    async def _surely(self, function: Callable[..., T], *arguments: Any) -> T:
        """Tries until the database answers: a result must not be lost to its restart."""
        pause = 0.5
        while True:
            try:
                return await self._do(function, *arguments)
            except StorageError as error:
                log.error("%s; trying again", error)
            except Exception:
                log.exception("the database of jobs does not answer; trying again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 30.0)


def _write(folder: Path, model: bytes, task: str, fill: Fill) -> None:
    with writing("what the job works on"):
        folder.mkdir()
        fill(folder)
        (folder / "model.onnx").write_bytes(model)
        (folder / TASK_FILE).write_text(task, "ascii")
