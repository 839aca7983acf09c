"""Progress reports of long work: callbacks that receive the share done, from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float], None]


def silent(share: float) -> None:
    """Discard progress reports."""


def part(progress: Progress, start: float, end: float) -> Progress:
    """Return the progress callback of a part of the work, from ``start`` to ``end`` of the whole."""
    return lambda share: progress(start + (end - start) * share)
