"""Run the tasks of a workload in several processes: on all cores of this machine, or on a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout
from functools import cache
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from typing import Any, Protocol

from lipmodel.errors import DataError, LipcertError, MissingExtraError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage data are sent


class Workload(Protocol):
    """Work of many tasks; picklable, as are tasks and results, since each process receives a copy."""

    def prepare(self) -> Callable[[Any], Any]:
        """Return the function that runs one task; called once in each process."""


_workload: Workload


def run_locally(workload: Workload, tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Run tasks on all cores of this machine, one process per core, as an engine.

    Raises:
        DataError: a task failed, or a process was killed.
    """
    workers = min(len(os.sched_getaffinity(0)), len(tasks))
    context = multiprocessing.get_context("spawn")
    workloads = context.Queue()  # an argument would delay each start until the previous process has read it
    workloads.cancel_join_thread()
    for _ in range(workers):
        workloads.put(workload)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (workloads,))
    try:
        with _interrupts_deferred():
            numbers = {pool.submit(_run_task, task): number for number, task in enumerate(tasks)}
        for done in as_completed(numbers):
            yield numbers.pop(done), done.result()
    except BrokenProcessPool as error:
        raise DataError("a process was killed, possibly by the out-of-memory killer") from error
    finally:
        for process in multiprocessing.active_children():
            process.kill()  # its results are no longer needed
        pool.shutdown(cancel_futures=True)  # joins its thread, which might otherwise run during shutdown


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Defer Ctrl-C until the end of the block, and block it for good in processes started within.

    The terminal sends the signal to every process, and only this one should report it. A blocked signal may
    still arrive through another thread, where it would leave a process half started.
    """
    received: list[int] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    here = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: received.append(number)) if here else None
    try:
        yield
    finally:
        if here:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if received:
        signal.raise_signal(signal.SIGINT)


def _start_worker(workloads: Queue[Workload]) -> None:
    global _workload  # noqa: PLW0603
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _workload = workloads.get()


@cache
def _prepared() -> Callable[[Any], Any]:
    return _workload.prepare()  # with the first task, which reports its errors


def _run_task(task: Any) -> Any:
    return _prepared()(task)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


class _Worker:
    """The object that Ray keeps in each of its processes."""

    def __init__(self, workload: Workload) -> None:
        self._run = workload.prepare()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        done = {"number": row["number"], "result": b"", "problem": ""}
        try:
            return done | {"result": pickle.dumps(self._run(pickle.loads(row["task"])))}
        except LipcertError as error:  # Ray would not keep its type
            return done | {"problem": str(error)}


def run_on_ray(workload: Workload, tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Run tasks with Ray Data, as an engine: on the cluster at ``RAY_ADDRESS``, or on this machine.

    Ray restarts workers that die and reassigns their tasks. A partition that is therefore certified twice is
    written twice under the same name, with the same content.

    Raises:
        DataError: a task failed.
        MissingExtraError: Ray is not installed.
    """
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext, from_items
    except ModuleNotFoundError:
        raise MissingExtraError("--engine ray", "ray") from None
    started = not ray.is_initialized()
    with redirect_stdout(sys.stderr):  # Ray prints lost workers to stdout, even during shutdown
        try:
            if started:
                ray.init(log_to_driver=False, logging_level=logging.FATAL)
            logging.getLogger("ray.data").setLevel(logging.FATAL)
            DataContext.get_current().enable_progress_bars = False  # the command shows its own
            workers = min(int(ray.cluster_resources()["CPU"]), len(tasks))
            rows = [{"number": number, "task": pickle.dumps(task)} for number, task in enumerate(tasks)]
            done = from_items(rows, override_num_blocks=len(rows)).map(
                _Worker,
                fn_constructor_args=[workload],
                compute=ActorPoolStrategy(min_size=1, max_size=workers),
            )
            for row in done.iter_rows():
                if row["problem"]:
                    raise DataError(row["problem"])
                yield int(row["number"]), pickle.loads(row["result"])
        finally:
            if started:
                ray.shutdown()


ENGINES: dict[str, Callable[[Workload, Sequence[Any]], Iterator[tuple[int, Any]]]] = {
    "local": run_locally,
    "ray": run_on_ray,
}
"""Functions that yield the index of each task and its result, in order of completion."""
