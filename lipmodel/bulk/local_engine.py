"""Run tasks on all cores of this machine, one process per core."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from typing import Any

from lipmodel.bulk.workload import Result, Task, Workload
from lipmodel.errors import DataError

_workload: Workload[Any, Any]


def run_locally(workload: Workload[Task, Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
    """Run tasks, and yield the index of each and its result in order of completion.

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


def _start_worker(workloads: Queue[Workload[Any, Any]]) -> None:
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
