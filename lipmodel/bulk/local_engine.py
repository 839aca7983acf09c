"""Tasks on all cores of this machine, a process on each."""

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

from lipmodel.bulk.work import Result, Task, Work
from lipmodel.errors import DataError

_work: Work[Any, Any]


def run_here(work: Work[Task, Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
    """Does tasks; yields the number of each, and its result, as it is done.

    Raises:
        DataError: one could not be done, or a process was killed.
    """
    workers = min(len(os.sched_getaffinity(0)), len(tasks))
    context = multiprocessing.get_context("spawn")
    works = context.Queue()  # an argument would hold up each start until the process before has read it
    works.cancel_join_thread()
    for _ in range(workers):
        works.put(work)
    pool = ProcessPoolExecutor(workers, context, _take, (works,))
    try:
        with _interrupts_after():
            numbers = {pool.submit(_do_one, task): number for number, task in enumerate(tasks)}
        for done in as_completed(numbers):
            yield numbers.pop(done), done.result()
    except BrokenProcessPool as error:
        raise DataError("a process was killed, perhaps for want of memory") from error
    finally:
        for process in multiprocessing.active_children():
            process.kill()  # nobody waits for what it has begun
        pool.shutdown(cancel_futures=True)  # waits for its thread, which the interpreter's end might surprise


@contextmanager
def _interrupts_after() -> Iterator[None]:
    """Holds Ctrl-C back, and for good from processes begun within: one line about it is enough, from here.

    It is sent to all of them. Blocked, it may still come by another thread, and would leave one half begun.
    """
    came: list[int] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    here = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number)) if here else None
    try:
        yield
    finally:
        if here:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _take(works: Queue[Work[Any, Any]]) -> None:
    global _work  # noqa: PLW0603
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _work = works.get()


@cache
def _begun() -> Callable[[Any], Any]:
    return _work.begin()  # with the first task, whose error it then is


def _do_one(task: Any) -> Any:
    return _begun()(task)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
