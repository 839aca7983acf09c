"""Ctrl-C (and a request to terminate) as a question a training asks between two steps."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def asking_for_an_end() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether one of ``SIGNALS`` came; a second one acts as it always does.

    For the main thread, which alone receives signals.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield lambda: asked
    finally:
        restore()
