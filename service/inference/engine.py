"""Arrays in, certified predictions out, and where the work runs. Knows no HTTP.

Work of a few milliseconds runs on the event loop itself, small requests together (``batcher.py``):
handing it to a thread costs 0.2 ms of CPU, as much as the whole of a small batch. Longer work goes to threads
(onnxruntime and numpy release the interpreter while they compute), in parts, so that it can be abandoned
between them. Radii are tightened in other threads, of lower priority and fewer than there are processors.
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
from lipmodel.norms import Array, Norm
from service.inference.batcher import Batch, Batcher, Part
from service.inference.fair_pool import FairPool
from service.models.registry import Model
from service.settings import Settings
from service.telemetry.metrics import Metrics

T = TypeVar("T")

INLINE_MULTIPLICATIONS = 10_000_000
"""Of one request; about 1 ms on one core."""
MERGED_MULTIPLICATIONS = 64_000_000
"""Of requests that are answered together, and of the parts in which long ones are answered."""
SLOW_THREADS = max(1, min(4, (os.cpu_count() or 1) - 1))
"""One processor is left to predictions, where there is another. Each thread may take some hundred MiB."""
SLOW_QUEUED, SLOW_QUEUED_PER_CALLER = 32, 8
NICENESS = 10


class Engine:
    """Runs predictions; one a process.

    Attributes:
        served: what was answered, but for tightened radii.
        slow: threads for work of seconds.

    Args:
        settings: of the service.
        metrics: to count in.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.served, self._metrics = metrics.served, metrics
        self._tighten_seconds, most = settings.tighten_seconds, settings.max_connections
        self._pool = FairPool("predict", os.cpu_count() or 1, queued=most, queued_per_caller=most)
        self.slow = FairPool(
            "slow",
            SLOW_THREADS,
            queued=SLOW_QUEUED,
            queued_per_caller=SLOW_QUEUED_PER_CALLER,
            niceness=NICENESS,
        )
        self._batchers: WeakKeyDictionary[Model, dict[Norm, Batcher]] = WeakKeyDictionary()

    async def predict(
        self,
        model: Model,
        inputs: Array,
        norm: Norm,
        *,
        caller: str,
        tighten: bool = False,
    ) -> Part:
        """Scores, labels and certified radii of (N, d) inputs that ``check_inputs`` gave.

        Args:
            model: that answers.
            inputs: to answer.
            norm: of the radii.
            caller: identity to take turns by.
            tighten: whether to prove larger radii, as far as the setting tighten_seconds allows.

        Raises:
            InputError: the model's scores overflow there.
            Problem: 429, too much long work is queued.
        """
        if tighten or is_long(model, inputs):
            batch = await self._in_thread(model, inputs, norm, caller, tighten)
            if not tighten:
                self.served.of(model, norm).add(batch.predictions.radii)
            part = Part(batch, 0, len(inputs))
        else:
            await self._begin(model, norm, caller)
            part = await self._batchers[model][norm].submit(inputs)
        part.check_scores()
        return part

    def predict_soon(self, model: Model, inputs: Array, norm: Norm) -> asyncio.Future[Part] | None:
        """The same, and ``check_scores`` is for the caller to do.

        None where that is long work, or the model has not been prepared for that norm by :meth:`predict`.
        """
        batcher = self._batchers.get(model, {}).get(norm)
        return None if batcher is None or is_long(model, inputs) else batcher.submit(inputs)

    async def portable_radii(self, model: Model, inputs: Array, norm: Norm, caller: str) -> Array:
        """(N,) radii that hold for every runtime, see ``CertifiedPredictor.portable_radii``."""

        def work(deadline: Deadline) -> Array:
            parts = _parts(model, inputs, deadline)
            return np.concatenate([model.predictor.portable_radii(part, norm) for part in parts])

        return await self._pool.run(caller, work)

    async def run(self, caller: str, work: Callable[[], T]) -> T:
        """Return the result of other work that takes about as long as long predictions."""
        return await self._pool.run(caller, lambda _: work())

    def alive(self) -> bool:
        """Whether it takes work."""
        return self._pool.open

    def close(self) -> None:
        """Take no more work, drop what is queued, and end what runs at its next check."""
        self._pool.close()
        self.slow.close()

    async def _begin(self, model: Model, norm: Norm, caller: str) -> None:
        """Makes the batcher of a model and a norm, if there is none yet."""
        if norm in self._batchers.get(model, {}):
            return
        if not model.predictor.rule(norm).ready:  # for thousands of scores that takes seconds
            await self.run(caller, lambda: model.predictor.prepare(norm))
        # Neither of these holds the model itself, which would then never be freed.
        predictor, served = model.predictor, self.served.of(model, norm)

        def run(inputs: Array) -> Batch:
            batch = Batch(predictor.answer(inputs, norm), predictor.claims.far_outside(inputs))
            served.add(batch.predictions.radii)
            return batch

        batchers = self._batchers.setdefault(model, {})
        batchers.setdefault(norm, Batcher(run, _most_rows(model), self._metrics))

    async def _in_thread(self, model: Model, inputs: Array, norm: Norm, caller: str, tighten: bool) -> Batch:
        answer = model.predictor.answer

        def tightened(deadline: Deadline) -> Predictions:
            return answer(inputs, norm, tighten=True, deadline=deadline)

        def plain(deadline: Deadline) -> Predictions:
            return Predictions.joined([answer(part, norm) for part in _parts(model, inputs, deadline)])

        begun = perf_counter()
        if tighten:
            found = await self.slow.run(caller, tightened, self._tighten_seconds)
        else:
            found = await self._pool.run(caller, plain)
        batch = Batch(found, model.predictor.claims.far_outside(inputs))
        self._metrics.run_seconds.observe(perf_counter() - begun)
        self._metrics.batch_rows.observe(len(inputs))
        return batch


def _parts(model: Model, inputs: Array, deadline: Deadline) -> Iterator[Array]:
    """Yield the inputs in parts, and check the deadline before each."""
    rows = _most_rows(model)
    for start in range(0, len(inputs), rows):
        deadline.check()
        yield inputs[start : start + rows]


def is_long(model: Model, inputs: Array) -> bool:
    """Return whether predictions of these inputs are left to a thread."""
    return len(inputs) * model.multiplications > INLINE_MULTIPLICATIONS


def _most_rows(model: Model) -> int:
    return max(1, MERGED_MULTIPLICATIONS // max(1, model.multiplications))
