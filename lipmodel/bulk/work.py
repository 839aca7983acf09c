"""What engines do for whoever wants it: some work, of many tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

Task_contra = TypeVar("Task_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)
Task = TypeVar("Task")
Result = TypeVar("Result")


class Work(Protocol[Task_contra, Result_co]):
    """It is sent to each process once, so it can be pickled, and so can tasks and results."""

    def begin(self) -> Callable[[Task_contra], Result_co]:
        """Makes ready, in a process, what does one task after the other there."""
