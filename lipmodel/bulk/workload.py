"""The interface between an engine and the work that it divides among processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

Task_contra = TypeVar("Task_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)
Task = TypeVar("Task")
Result = TypeVar("Result")


class Workload(Protocol[Task_contra, Result_co]):
    """Work of many tasks; picklable, as are tasks and results, since each process receives a copy."""

    def prepare(self) -> Callable[[Task_contra], Result_co]:
        """Return the function that runs one task; called once in each process."""
