"""Continuous batching of small requests: all that queue while one batch runs are the next batch.

There is no timer. A request that finds the queue empty runs two iterations of the event loop later, which is
microseconds, with the requests that have arrived by then; under load, batches grow by themselves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lipmodel.certify.predictor import Predictions
from lipmodel.errors import InputError
from lipmodel.norms import Array
from service.telemetry.metrics import Metrics


class Part(NamedTuple):
    """The answers to one request: rows of a batch."""

    batch: Batch
    start: int
    stop: int

    @property
    def radii(self) -> Array:
        """Return the (N,) certified radii."""
        return self.batch.predictions.radii.certified_radius[self.start : self.stop]

    @property
    def margins(self) -> Array:
        """Return the (N,) margins."""
        return self.batch.predictions.radii.margin[self.start : self.stop]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the (N,) class indices."""
        return self.batch.predictions.radii.label[self.start : self.stop]

    @property
    def scores(self) -> Array:
        """Return the (N,) or (N, K) scores."""
        return self.batch.predictions.scores[self.start : self.stop]

    @property
    def columns(self) -> list[list[Any]]:
        """Return lists of N scores, margins, certified radii and runners-up."""
        return [column[self.start : self.stop] for column in self.batch.columns]

    @property
    def execution(self) -> str:
        """Return the name of the floating-point format that the scores were computed in."""
        return self.batch.predictions.execution.__name__

    def check_scores(self) -> None:
        """Raise InputError where a score is not finite."""
        if self.batch.finite is None:
            return
        finite = self.batch.finite[self.start : self.stop]
        if not finite.all():
            row = int(finite.argmin())
            raise InputError("is so large that the model's scores overflow", field=f"inputs[{row}]")

    @property
    def outside(self) -> NDArray[np.bool_] | None:
        """Return (N,) whether each input lies far outside the file's input_box; None if none does."""
        if self.batch.outside is None:
            return None
        outside = self.batch.outside[self.start : self.stop]
        return outside if outside.any() else None

    @property
    def predictions(self) -> Predictions:
        """Return the answers without the rest of the batch."""
        return self.batch.predictions.rows(slice(self.start, self.stop))


class Batch:
    """Answers to several requests.

    Attributes:
        predictions: the answers.
        outside: (N,) whether each input lies far outside the file's input_box; None where none does.
        finite: (N,) whether all scores of a row are finite; None where all rows' are.
    """

    def __init__(self, predictions: Predictions, outside: NDArray[np.bool_] | None = None) -> None:
        self.predictions, self.outside = predictions, outside
        finite = np.isfinite(predictions.scores)
        self.finite: NDArray[np.bool_] | None = None if finite.all() else np.asarray(finite.all(axis=1))
        self._columns: tuple[list[Any], ...] | None = None

    @property
    def columns(self) -> tuple[list[Any], ...]:
        """Return scores, margins, certified radii and runners-up as lists."""
        if self._columns is None:
            found, radii = self.predictions, self.predictions.radii
            arrays = (found.scores, radii.margin, radii.certified_radius, radii.runner_up)
            self._columns = tuple(array.tolist() for array in arrays)
        return self._columns


class Batcher:
    """Merges the requests for one model and norm. Not thread-safe: used on the event loop alone.

    Args:
        run: answers (N, d) inputs.
        max_rows: of a batch, unless a single request has more.
        metrics: of this process.
    """

    def __init__(self, run: Callable[[Array], Batch], max_rows: int, metrics: Metrics) -> None:
        self._run, self._max_rows, self._metrics = run, max_rows, metrics
        self._queue: deque[tuple[Array, asyncio.Future[Part], float]] = deque()
        self._due = False

    def submit(self, inputs: Array) -> asyncio.Future[Part]:
        """Queue (n, d) inputs, and return the future of their answers."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Part] = loop.create_future()
        self._queue.append((inputs, future, perf_counter()))
        self._metrics.queued_rows.value += len(inputs)
        if not self._due:
            self._due = True
            # In the second iteration from now: the first reads requests that have arrived, which then join.
            loop.call_soon(loop.call_soon, self._next)
        return future

    def _next(self) -> None:
        taken: list[tuple[Array, asyncio.Future[Part]]] = []
        rows, metrics, begun = 0, self._metrics, perf_counter()
        while self._queue and (not taken or rows + len(self._queue[0][0]) <= self._max_rows):
            inputs, future, since = self._queue.popleft()
            metrics.queued_rows.value -= len(inputs)
            if not future.done():  # its client may have left
                taken.append((inputs, future))
                metrics.queue_seconds.observe(begun - since)
                rows += len(inputs)
        self._due = bool(self._queue)
        if self._due:
            asyncio.get_running_loop().call_soon(self._next)
        if not taken:
            return
        try:
            batch = self._run(taken[0][0] if len(taken) == 1 else np.concatenate([x for x, _ in taken]))
        except Exception as error:  # an input that fails by itself fails in every batch
            for _, future in taken:
                future.set_exception(error)
            return
        metrics.run_seconds.observe(perf_counter() - begun)
        metrics.batch_rows.observe(rows)
        start = 0
        for inputs, future in taken:
            future.set_result(Part(batch, start, start := start + len(inputs)))
