"""SIGINT and SIGTERM as a stop request that a training checks between steps."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True once one of ``SIGNALS`` was received.

    A second signal has its usual effect. For the main thread only, which receives the signals.
    """
    received = False

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, receive) for number in SIGNALS}
    try:
        yield lambda: received
    finally:
        restore()
