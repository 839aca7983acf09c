"""Arrays in, certified predictions out, and where the work runs. Knows no HTTP.

Work of a few milliseconds runs on the event loop itself, small requests together (``batcher.py``):
handing it to a thread costs 0.2 ms of CPU, as much as the whole of a small batch. Longer work goes to threads
(onnxruntime and numpy release the interpreter while they compute).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import TypeVar
from weakref import WeakKeyDictionary

from lipmodel.certify.execution import Float
from lipmodel.norms import Array, Norm
from service.batcher import Batch, Batcher, Part
from service.metrics import Metrics
from service.registry import Model

T = TypeVar("T")

INLINE_MULTIPLICATIONS = 10_000_000
"""Of one request; about 1 ms on one core."""
MERGED_MULTIPLICATIONS = 64_000_000
"""Of requests that are answered together."""


class Engine:
    """Runs predictions; one a process.

    Attributes:
        served: what was answered, but for tightened radii.

    Args:
        metrics: to count in.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.served, self._metrics = metrics.served, metrics
        self._threads = ThreadPoolExecutor(os.cpu_count(), "predict")
        self._batchers: WeakKeyDictionary[Model, dict[Norm, Batcher]] = WeakKeyDictionary()

    async def predict(
        self,
        model: Model,
        inputs: Array,
        norm: Norm,
        *,
        tighten: bool = False,
        execution: Float | None = None,
    ) -> Part:
        """Scores, labels and certified radii of (N, d) inputs that ``check_inputs`` gave.

        Args:
            model: that answers.
            inputs: to answer.
            norm: of the radii.
            tighten: whether to prove larger radii.
            execution: the format to compute in; by default as the model is set.

        Raises:
            InputError: the model's scores overflow there.
        """
        own = execution in (None, model.settings.dtype)
        if tighten or not own or _is_long(model, inputs):
            batch = await self._in_thread(model, inputs, norm, tighten, execution)
            if not tighten:
                self.served.of(model, norm).add(batch.predictions.radii)
            part = Part(batch, 0, len(inputs))
        else:
            await self._begin(model, norm)
            part = await self._batchers[model][norm].submit(inputs)
        part.check_scores()
        return part

    def predict_soon(self, model: Model, inputs: Array, norm: Norm) -> asyncio.Future[Part] | None:
        """The same, to be computed as the model is set, and ``check_scores`` is for the caller to do.

        None where that is long work, or the model has not been prepared for that norm by :meth:`predict`.
        """
        batcher = self._batchers.get(model, {}).get(norm)
        return None if batcher is None or _is_long(model, inputs) else batcher.submit(inputs)

    async def portable_radii(self, model: Model, inputs: Array, norm: Norm) -> Array:
        """(N,) radii that hold for every runtime, see ``CertifiedPredictor.portable_radii``."""
        return await self._run(partial(model.predictor.portable_radii, inputs, norm))

    def alive(self) -> bool:
        """Whether it takes work."""
        try:
            self._threads.submit(int)
        except RuntimeError:
            return False
        return True

    def close(self) -> None:
        """Takes no more work; what waits is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _begin(self, model: Model, norm: Norm) -> None:
        """Makes the batcher of a model and a norm, if there is none yet."""
        if norm in self._batchers.get(model, {}):
            return
        if not model.predictor.rule(norm).ready:  # for thousands of scores that takes seconds
            await self._run(partial(model.predictor.prepare, norm, model.settings.dtype))
        # Neither of these holds the model itself, which would then never be freed.
        predictor, served, execution = model.predictor, self.served.of(model, norm), model.settings.dtype

        def run(inputs: Array) -> Batch:
            answers = predictor.answer(inputs, norm, execution=execution)
            batch = Batch(answers, predictor.claims.far_outside(inputs))
            served.add(batch.predictions.radii)
            return batch

        batchers = self._batchers.setdefault(model, {})
        batchers.setdefault(norm, Batcher(run, _most_rows(model), self._metrics))

    async def _in_thread(
        self, model: Model, inputs: Array, norm: Norm, tighten: bool, execution: Float | None
    ) -> Batch:
        execution = execution or model.settings.dtype
        work = partial(model.predictor.answer, inputs, norm, tighten=tighten, execution=execution)
        begun = perf_counter()
        batch = Batch(await self._run(work), model.predictor.claims.far_outside(inputs))
        self._metrics.run_seconds.observe(perf_counter() - begun)
        self._metrics.batch_rows.observe(len(inputs))
        return batch

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _is_long(model: Model, inputs: Array) -> bool:
    return len(inputs) * model.multiplications > INLINE_MULTIPLICATIONS


def _most_rows(model: Model) -> int:
    return max(1, MERGED_MULTIPLICATIONS // max(1, model.multiplications))
