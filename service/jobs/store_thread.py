"""Calls of the blocking store from the event loop, in a thread of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from service.database.connect import StorageError

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
"""Pauses between retries: the first, doubled each time up to the longest."""

log = logging.getLogger(__name__)
T = TypeVar("T")


class StoreThread:
    """One thread for all calls, so that the event loop never waits for a disk."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "store")

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a function called in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def retry(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a function, called until the database responds: it may be restarting."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self.run(function, *arguments)
            except StorageError as error:
                log.error("%s; trying again", error)
            except Exception:
                log.exception("the database of jobs does not respond; trying again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def close(self) -> None:
        """Wait for the running call, and end the thread."""
        self._thread.shutdown()
