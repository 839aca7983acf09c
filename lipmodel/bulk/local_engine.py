"""Partitions on all cores of this machine, a process on each."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from lipmodel.bulk.certifier import Certifier, Work
from lipmodel.bulk.partitions import Partition
from lipmodel.errors import DataError

_certifier: Certifier


def run_here(work: Work, partitions: Sequence[Partition]) -> Iterator[int]:
    """Certifies partitions; yields the rows of each as it is done.

    Raises:
        DataError: one could not be certified, or a process was killed; what is done stays.
    """
    workers = min(len(os.sched_getaffinity(0)), len(partitions))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (work,))
    try:
        for done in as_completed([pool.submit(_certify, partition) for partition in partitions]):
            yield done.result()
    except BrokenProcessPool as error:
        raise DataError("a process was killed, perhaps for want of memory; what is done stays") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.kill()  # what it has begun would be of no use: it has no name yet


def _begin(work: Work) -> None:
    global _certifier  # noqa: PLW0603
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _certifier = Certifier(work)


def _certify(partition: Partition) -> int:
    return _certifier(partition)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
