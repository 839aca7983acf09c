"""Runs models: arrays in, certified predictions out. Knows no HTTP.

Work of a few milliseconds runs on the event loop itself, in batches of small requests (``batcher.py``): to
pass it to a thread costs 0.2 ms of CPU, as much as a whole small batch. Longer work goes to threads
(onnxruntime and numpy release the interpreter while they compute), in parts, so that it can be cancelled
between them. Other threads tighten radii: fewer than there are processors, and at lower priority.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from lipmodel.certify.predictor import Predictions
from lipmodel.deadline import Deadline
from lipmodel.norms import Array
from lipmodel.threat import Threat
from service.inference.batcher import Batch, Batcher, Part
from service.inference.fair_pool import FairPool
from service.models.registry import Model
from service.settings import Settings
from service.telemetry.metrics import Metrics

T = TypeVar("T")

INLINE_MULTIPLICATIONS = 10_000_000
"""Limit for one request on the event loop; about 1 ms on one core."""
MERGED_MULTIPLICATIONS = 64_000_000
"""Limit for a batch of requests, and for each part of a long request."""
SLOW_THREADS = max(1, min(4, (os.cpu_count() or 1) - 1))
"""One processor is left to predictions, where there are several. Each thread may take some hundred MiB."""
SLOW_QUEUED, SLOW_QUEUED_PER_CALLER = 32, 8
NICENESS = 10


class Engine:
    """Runs the predictions of a process.

    Attributes:
        slow: threads for work that takes seconds.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tighten_seconds, queued = settings.tighten_seconds, settings.max_connections
        self._pool = FairPool("predict", os.cpu_count() or 1, queued=queued, queued_per_caller=queued)
        self.slow = FairPool(
            "slow",
            SLOW_THREADS,
            queued=SLOW_QUEUED,
            queued_per_caller=SLOW_QUEUED_PER_CALLER,
            niceness=NICENESS,
        )
        self._batchers: WeakKeyDictionary[Model, dict[Threat, Batcher]] = WeakKeyDictionary()

    async def predict(
        self,
        model: Model,
        inputs: Array,
        threat: Threat,
        *,
        caller: str,
        tighten: bool = False,
    ) -> Part:
        """Return scores, labels and certified radii; ``check_scores`` is for the caller.

        Args:
            model: that answers.
            inputs: (N, d), as returned by ``check_inputs``.
            threat: of the radii.
            caller: identity; long work of different callers takes turns.
            tighten: whether to prove larger radii, for up to the setting tighten_seconds.

        Raises:
            Problem: 429, too much long work is queued.
        """
        if tighten or is_long(model, inputs) or _is_ad_hoc(model, threat):
            batch = await self._in_thread(model, inputs, threat, caller, tighten)
            if not tighten and threat.scale is None:  # radii in other units belong into no histogram of radii
                self._metrics.served_radii.of(model, threat.norm).add(batch.predictions.radii)
            return Part(batch, 0, len(inputs))
        await self._prepare(model, threat, caller)
        return await self._batchers[model][threat].submit(inputs)

    def submit(self, model: Model, inputs: Array, threat: Threat) -> asyncio.Future[Part] | None:
        """Queue inputs, and return the future of :meth:`predict`'s result.

        Returns None for long work, and until :meth:`predict` has prepared the model for the threat set.
        """
        batcher = self._batchers.get(model, {}).get(threat)
        return None if batcher is None or is_long(model, inputs) else batcher.submit(inputs)

    async def portable_radii(self, model: Model, inputs: Array, threat: Threat, caller: str) -> Array:
        """Return (N,) radii that hold for every runtime; see ``CertifiedPredictor.portable_radii``."""

        def work(deadline: Deadline) -> Array:
            parts = _parts(model, inputs, deadline)
            return np.concatenate([model.predictor.portable_radii(part, threat) for part in parts])

        return await self._pool.run(caller, work)

    async def run(self, caller: str, work: Callable[[], T]) -> T:
        """Return the result of other work that takes about as long as a long prediction."""
        return await self._pool.run(caller, lambda _: work())

    def alive(self) -> bool:
        """Return whether the engine accepts work."""
        return self._pool.open

    def close(self) -> None:
        """Accept no more work, drop queued work, and end running work at its next check."""
        self._pool.close()
        self.slow.close()

    async def _prepare(self, model: Model, threat: Threat, caller: str) -> None:
        """Make the batcher of a model and a threat set, if there is none yet."""
        if threat in self._batchers.get(model, {}):
            return
        if not model.predictor.is_prepared(threat):  # for thousands of scores that takes seconds
            await self.run(caller, lambda: model.predictor.prepare(threat))
        # Neither refers to the model itself, which would then never be freed.
        predictor = model.predictor
        served = self._metrics.served_radii.of(model, threat.norm) if threat.scale is None else None

        def run(inputs: Array) -> Batch:
            batch = Batch(predictor.answer(inputs, threat), predictor.claims.far_outside(inputs))
            if served is not None:
                served.add(batch.predictions.radii)
            return batch

        batchers = self._batchers.setdefault(model, {})
        batchers.setdefault(threat, Batcher(run, _max_rows(model), self._metrics))

    async def _in_thread(
        self, model: Model, inputs: Array, threat: Threat, caller: str, tighten: bool
    ) -> Batch:
        answer = model.predictor.answer

        def tightened(deadline: Deadline) -> Predictions:
            return answer(inputs, threat, tighten=True, deadline=deadline)

        def plain(deadline: Deadline) -> Predictions:
            return Predictions.joined([answer(part, threat) for part in _parts(model, inputs, deadline)])

        begun = perf_counter()
        if tighten:
            found = await self.slow.run(caller, tightened, self._tighten_seconds)
        else:
            found = await self._pool.run(caller, plain)
        batch = Batch(found, model.predictor.claims.far_outside(inputs))
        self._metrics.run_seconds.observe(perf_counter() - begun)
        self._metrics.batch_rows.observe(len(inputs))
        return batch


def _is_ad_hoc(model: Model, threat: Threat) -> bool:
    """Return whether a request describes its own threat set, so that bounds are derived in a thread."""
    return threat.scale is not None and threat not in model.settings.threats.values()


def _parts(model: Model, inputs: Array, deadline: Deadline) -> Iterator[Array]:
    """Yield the inputs in parts; check the deadline before each."""
    rows = _max_rows(model)
    for start in range(0, len(inputs), rows):
        deadline.check()
        yield inputs[start : start + rows]


def is_long(model: Model, inputs: Array) -> bool:
    """Return whether a thread runs predictions of these inputs."""
    return len(inputs) * model.multiplications > INLINE_MULTIPLICATIONS


def _max_rows(model: Model) -> int:
    return max(1, MERGED_MULTIPLICATIONS // max(1, model.multiplications))
