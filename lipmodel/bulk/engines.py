"""The engines: each has the tasks of some work done by several processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from lipmodel.bulk.local_engine import run_here
from lipmodel.bulk.ray_engine import run_on_ray
from lipmodel.bulk.work import Work


class Engine(Protocol):
    """What has tasks done; yields the number of each, and its result, as it is done."""

    def __call__(self, work: Work[Any, Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Begins the work in each process once."""


ENGINES: dict[str, Engine] = {"local": run_here, "ray": run_on_ray}
