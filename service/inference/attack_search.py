"""Attacks on a few inputs while the client waits, by the method of audits.

Attacks take turns with other slow work, in threads of low priority: predictions come first. Larger searches
are audits.
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
from lipmodel.threat import BALLS
from service.inference.fair_pool import FairPool
from service.models.registry import Model

if TYPE_CHECKING:  # imported for the first search
    from lipmodel.audit.attacks.attack import AttackResult
    from lipmodel.audit.gradient import GradientEngine

MAX_ROWS = 100
PASSES = 900
"""Approximate number of passes through the network for one input."""
MAX_MULTIPLICATIONS = 30_000_000_000
"""Limit for one search; some seconds on one core."""


@dataclass(frozen=True, eq=False)
class AttackSearchResult:
    """Result of a search about N inputs.

    Attributes:
        before: answers to the inputs.
        attack: the nearest adversarial input found for each.
        after: answers to the adversarial inputs; to the input itself where none was found.
    """

    before: Predictions
    attack: AttackResult
    after: Predictions


class AttackSearch:
    """Searches of a process, in the threads of a pool."""

    def __init__(self, pool: FairPool) -> None:
        self._pool = pool
        self._engines: WeakKeyDictionary[CertifiedPredictor, GradientEngine] = WeakKeyDictionary()

    async def attack(self, model: Model, inputs: Array, norm: Norm, caller: str) -> AttackSearchResult:
        """Return the nearest input with another label that is found for each of (N, d) inputs.

        Raises:
            InputError: the search would take too long.
            Problem: 429, too much long work is queued.
        """
        most = min(MAX_ROWS, MAX_MULTIPLICATIONS // (PASSES * max(1, model.multiplications)))
        if len(inputs) > most:
            reason = f"has {len(inputs)} rows; at most {most} are searched of this model while you wait"
            raise InputError(f"{reason}; an audit accepts more")
        return await self._pool.run(caller, partial(self._attack, model.predictor, inputs, norm))

    def _attack(
        self, predictor: CertifiedPredictor, inputs: Array, norm: Norm, deadline: Deadline
    ) -> AttackSearchResult:
        from lipmodel.audit.attacks.attack import AttackTask
        from lipmodel.audit.attacks.registry import attack_radii
        from lipmodel.audit.gradient import GradientEngine

        if predictor not in self._engines:
            self._engines[predictor] = GradientEngine(predictor.file.graph)
        before = predictor.predict(inputs, norm)
        task = AttackTask(predictor, self._engines[predictor], inputs, BALLS[norm])
        radius = before.radii.certified_radius
        attack = attack_radii(task, radius, progress=lambda _: deadline.check())
        after = predictor.predict(attack.adversarial, norm)
        return AttackSearchResult(before, attack, after)
