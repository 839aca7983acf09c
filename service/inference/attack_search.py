"""Searches for the nearest change of label while the client waits: the audit's own, a few inputs at a time.

Searches take turns with other slow work, in threads to which the system gives less of the processor:
predictions come first. What would take longer than a person waits is an audit's work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from lipmodel.certify.predictor import CertifiedPredictor, Predictions
from lipmodel.deadline import Deadline
from lipmodel.errors import InputError
from lipmodel.norms import Array, Norm
from service.inference.fair_pool import FairPool
from service.models.registry import Model

if TYPE_CHECKING:  # what it takes to search is imported for the first search
    from lipmodel.audit.attacks.attack import AttackResult
    from lipmodel.audit.gradient import GradientEngine

MAX_ROWS = 100
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
    attack: AttackResult
    after: Predictions


class Attacker:
    """Runs searches; one a process.

    Args:
        pool: to run them in.
    """

    def __init__(self, pool: FairPool) -> None:
        self._pool = pool
        self._engines: WeakKeyDictionary[CertifiedPredictor, GradientEngine] = WeakKeyDictionary()

    async def attack(self, model: Model, inputs: Array, norm: Norm, caller: str) -> Attacked:
        """The nearest change of label that is found of each of (N, d) inputs.

        Raises:
            InputError: the search would take too long to wait for.
            Problem: 429, too much long work is queued.
        """
        most = min(MAX_ROWS, MAX_MULTIPLICATIONS // (PASSES * max(1, model.multiplications)))
        if len(inputs) > most:
            reason = f"has {len(inputs)} rows; of this model at most {most} are searched while you wait"
            raise InputError(f"{reason}, an audit takes more")
        return await self._pool.run(caller, partial(self._attack, model.predictor, inputs, norm))

    def _attack(
        self, predictor: CertifiedPredictor, inputs: Array, norm: Norm, deadline: Deadline
    ) -> Attacked:
        from lipmodel.audit.attacks.attack import AttackTask
        from lipmodel.audit.attacks.registry import attack_radii
        from lipmodel.audit.gradient import GradientEngine

        if predictor not in self._engines:
            self._engines[predictor] = GradientEngine(predictor.file.graph)
        before = predictor.predict(inputs, norm)
        task = AttackTask(predictor, self._engines[predictor], inputs, norm)
        radius = before.radii.certified_radius
        attack = attack_radii(task, radius, progress=lambda _: deadline.check())
        after = predictor.predict(attack.adversarial, norm)
        return Attacked(before, attack, after)
