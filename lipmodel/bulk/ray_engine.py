"""Tasks on a cluster of Ray, by Ray Data: where ``RAY_ADDRESS`` says, or on this machine.

Ray restarts workers that die and gives their tasks to others. A partition that is so certified twice is
written twice under one name, with the same content.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any

from lipmodel.bulk.work import Result, Task, Work
from lipmodel.errors import DataError, LipcertError, MissingExtraError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unasked


class _Worker:
    """What Ray keeps in each of its processes."""

    def __init__(self, work: Work[Any, Any]) -> None:
        self._do = work.begin()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        done = {"number": row["number"], "result": b"", "problem": ""}
        try:
            return done | {"result": pickle.dumps(self._do(pickle.loads(row["task"])))}
        except LipcertError as error:  # Ray would lose its type on the way
            return done | {"problem": str(error)}


def run_on_ray(work: Work[Task, Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
    """Does tasks; yields the number of each, and its result, as it is done.

    Raises:
        DataError: one could not be done.
        MissingExtraError: Ray is not installed.
    """
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext, from_items
    except ModuleNotFoundError:
        raise MissingExtraError("--engine ray", "ray") from None
    begun = not ray.is_initialized()
    with redirect_stdout(sys.stderr):  # Ray tells there of workers that died, even while it ends
        try:
            if begun:
                ray.init(log_to_driver=False, logging_level=logging.FATAL)
            logging.getLogger("ray.data").setLevel(logging.FATAL)
            DataContext.get_current().enable_progress_bars = False  # there is one of ours
            workers = min(int(ray.cluster_resources()["CPU"]), len(tasks))
            rows = [{"number": number, "task": pickle.dumps(task)} for number, task in enumerate(tasks)]
            done = from_items(rows, override_num_blocks=len(rows)).map(
                _Worker, fn_constructor_args=[work], compute=ActorPoolStrategy(min_size=1, max_size=workers)
            )
            for row in done.iter_rows():
                if row["problem"]:
                    raise DataError(row["problem"])
                yield int(row["number"]), pickle.loads(row["result"])
        finally:
            if begun:
                ray.shutdown()
