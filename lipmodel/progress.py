"""How long work tells how far it is: a function of the share done, from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float], None]


def silent(share: float) -> None:
    """Tells nobody."""


def part(progress: Progress, start: float, end: float) -> Progress:
    """What a part of the work tells, as its share of the whole."""
    return lambda share: progress(start + (end - start) * share)
