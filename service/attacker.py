"""Searches for the nearest change of label while the client waits: the audit's own, a few inputs at a time.

One search runs at a time, in a thread to which the system gives less of the processor: predictions come
first. What would take longer than a person waits is an audit's work.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from lipmodel.certify.predictor import CertifiedPredictor, Predictions
from lipmodel.errors import InputError
from lipmodel.norms import Array, Norm
from service.errors import Problem, ProblemKind
from service.registry import Model

if TYPE_CHECKING:  # what it takes to search is imported for the first search
    from lipmodel.audit.attack import Attack
    from lipmodel.audit.gradient import GradientEngine

NICENESS = 10
MAX_ROWS = 100
MAX_WAITING = 8
PASSES = 900
"""Ways through the network that the search for one input comes to, roughly."""
MAX_MULTIPLICATIONS = 30_000_000_000
"""Of one search; some seconds on one core."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """What a search about N inputs came to.

    Attributes:
        before: answers to the inputs themselves.
        attack: the nearest change of label found of each.
        after: answers to what it found; of an input without, to the input itself.
    """

    before: Predictions
    attack: Attack
    after: Predictions


class Attacker:
    """Runs searches; one a process."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "attack", initializer=_give_way)
        self._engines: WeakKeyDictionary[CertifiedPredictor, GradientEngine] = WeakKeyDictionary()
        self._waiting = 0

    async def attack(self, model: Model, inputs: Array, norm: Norm) -> Attacked:
        """The nearest change of label that is found of each of (N, d) inputs.

        Raises:
            InputError: the search would take too long to wait for.
            Problem: 429, as many searches wait as may.
        """
        most = min(MAX_ROWS, MAX_MULTIPLICATIONS // (PASSES * max(1, model.multiplications)))
        if len(inputs) > most:
            reason = f"has {len(inputs)} rows; of this model at most {most} are searched while you wait"
            raise InputError(f"{reason}, an audit takes more")
        if self._waiting >= MAX_WAITING:
            detail = f"{self._waiting} searches wait already, as many as may"
            raise Problem(ProblemKind.QUEUE_FULL, detail, headers={"Retry-After": "1"})
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._attack, model.predictor, inputs, norm)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Takes no more work; what waits is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _attack(self, predictor: CertifiedPredictor, inputs: Array, norm: Norm) -> Attacked:
        from lipmodel.audit.attack import attack_radii
        from lipmodel.audit.gradient import GradientEngine

        if predictor not in self._engines:
            self._engines[predictor] = GradientEngine(predictor.file.graph)
        before = predictor.predict(inputs, norm)
        attack = attack_radii(
            predictor, self._engines[predictor], inputs, before.radii.certified_radius, norm
        )
        after = predictor.predict(attack.adversarial, norm)
        return Attacked(before, attack, after)


def _give_way() -> None:
    """Lowers the priority of this thread, which Linux takes for a process."""
    with suppress(OSError):  # of systems where threads have no priority of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
