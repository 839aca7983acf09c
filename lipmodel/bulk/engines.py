"""The engines by name: each runs the tasks of a workload in several processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from lipmodel.bulk.local_engine import run_locally
from lipmodel.bulk.ray_engine import run_on_ray
from lipmodel.bulk.workload import Workload


class Engine(Protocol):
    """A function that runs tasks in processes."""

    def __call__(self, workload: Workload[Any, Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield the index of each task and its result, in order of completion."""


ENGINES: dict[str, Engine] = {"local": run_locally, "ray": run_on_ray}
