"""Run tasks on a Ray cluster with Ray Data: at ``RAY_ADDRESS``, or on this machine.

Ray restarts workers that die and reassigns their tasks. A partition that is therefore certified twice is
written twice under the same name, with the same content.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any

from lipmodel.bulk.workload import Result, Task, Workload
from lipmodel.errors import DataError, LipcertError, MissingExtraError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage data are sent


class _Worker:
    """The object that Ray keeps in each of its processes."""

    def __init__(self, workload: Workload[Any, Any]) -> None:
        self._run = workload.prepare()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        done = {"number": row["number"], "result": b"", "problem": ""}
        try:
            return done | {"result": pickle.dumps(self._run(pickle.loads(row["task"])))}
        except LipcertError as error:  # Ray would not keep its type
            return done | {"problem": str(error)}


def run_on_ray(workload: Workload[Task, Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
    """Run tasks, and yield the index of each and its result in order of completion.

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
