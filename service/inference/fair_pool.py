"""Threads for long work: callers take turns, queues are bounded, and work can be cancelled."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from lipmodel.deadline import Deadline
from service.problems import Problem, ProblemKind

T = TypeVar("T")


class FairPool:
    """A bounded queue for each caller, served in turn by a few threads. Used on the event loop alone.

    Args:
        name: of the threads.
        threads: number of tasks that run at a time.
        queued: limit on queued tasks.
        queued_per_caller: limit on queued tasks of one caller.
        niceness: added to that of the threads, to lower their priority.
    """

    def __init__(
        self, name: str, threads: int, *, queued: int, queued_per_caller: int, niceness: int = 0
    ) -> None:
        self._threads = ThreadPoolExecutor(threads, name, _lower_priority, (niceness,))
        self._idle, self._queued, self._queued_per_caller = threads, queued, queued_per_caller
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        """Queues by caller, in turn; none is empty."""
        self._running: set[Deadline] = set()
        self.open = True

    async def run(self, caller: str, work: Callable[[Deadline], T], seconds: float = math.inf) -> T:
        """Return the result of work done in a thread, once it is the caller's turn.

        If the awaiting task is cancelled, queued work is dropped immediately, and running work ends at its
        next check. A thread is free only once its work has ended.

        Args:
            caller: identity; callers take turns.
            work: function of the deadline.
            seconds: from the start of the work to its deadline.

        Raises:
            Problem: 429, the queue is full.
        """
        await self._turn(caller, seconds)
        deadline, loop = Deadline(seconds), asyncio.get_running_loop()

        def ended(_: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop has ended earlier
                loop.call_soon_threadsafe(self._free, deadline)

        self._running.add(deadline)
        future = self._threads.submit(work, deadline)
        future.add_done_callback(ended)
        try:
            return await asyncio.wrap_future(future)
        finally:
            deadline.cancel()

    def close(self) -> None:
        """Accept no more work, drop queued work, and end running work at its next check."""
        self.open = False
        for deadline in self._running:
            deadline.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _turn(self, caller: str, seconds: float) -> None:
        """Wait for a thread; raise a 429 if the queue is full."""
        if self._idle:
            self._idle -= 1
            return
        own = len(self._queues.get(caller, ()))
        for count, limit, of in (
            (own, self._queued_per_caller, "of this caller "),
            (sum(map(len, self._queues.values())), self._queued, ""),
        ):
            if count >= limit:
                detail = f"{count} long requests {of}are queued; the limit is {limit}"
                wait = "1" if seconds == math.inf else str(math.ceil(seconds))
                raise Problem(ProblemKind.QUEUE_FULL, detail, headers={"Retry-After": wait})
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                queue = self._queues.get(caller, deque())
                with suppress(ValueError):  # skipped already
                    queue.remove(turn)
                    if not queue:
                        del self._queues[caller]
            else:  # cancelled just after its turn had come
                self._pass_on()
            raise

    def _free(self, deadline: Deadline) -> None:
        """Free the thread of work that has ended."""
        self._running.discard(deadline)
        self._pass_on()

    def _pass_on(self) -> None:
        """Give a free thread to the next caller, and put that caller last."""
        while self._queues:
            caller = next(iter(self._queues))
            queue = self._queues.pop(caller)
            turn = queue.popleft()
            if queue:
                self._queues[caller] = queue
            if not turn.cancelled():  # in this iteration of the loop: its task has yet to remove it
                turn.set_result(None)
                return
        self._idle += 1


def _lower_priority(niceness: int) -> None:
    """Lower the priority of this thread, which Linux schedules as a process."""
    with suppress(OSError):  # on systems where threads have no priority of their own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + niceness)
