"""Small requests are answered together: whatever has queued while the last batch ran is the next one.

Nothing waits for a timer. A request that finds nothing queued is run two turns of the event loop later,
microseconds, with those that arrived by then; under load, batches grow by themselves.
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
    """The answers to one request: some rows of those to a batch."""

    batch: Batch
    start: int
    stop: int

    @property
    def radii(self) -> Array:
        """(N,) certified radii."""
        return self.batch.predictions.radii.certified_radius[self.start : self.stop]

    @property
    def execution(self) -> str:
        """Name of the format that they were computed in."""
        return self.batch.predictions.execution.__name__

    def check_scores(self) -> None:
        """Raises InputError where scores are not finite."""
        if self.batch.finite is None:
            return
        finite = self.batch.finite[self.start : self.stop]
        if not finite.all():
            row = int(finite.argmin())
            raise InputError("is so large that the model's scores overflow", field=f"inputs[{row}]")

    @property
    def outside(self) -> NDArray[np.bool_] | None:
        """(N,) whether each input lies far outside the box that the model's file names; None if none does."""
        if self.batch.outside is None:
            return None
        outside = self.batch.outside[self.start : self.stop]
        return outside if outside.any() else None

    @property
    def predictions(self) -> Predictions:
        """The answers themselves, without the rest of the batch."""
        return self.batch.predictions.rows(slice(self.start, self.stop))


class Batch:
    """Answers to several requests, and as lists where a request wants them so.

    Attributes:
        predictions: the answers.
        outside: (N,) whether each input lies far outside the box that the model's file names; None where
            none does.
        finite: (N,) whether the scores of each are; None where all are.
    """

    def __init__(self, predictions: Predictions, outside: NDArray[np.bool_] | None = None) -> None:
        self.predictions, self.outside = predictions, outside
        finite = np.isfinite(predictions.scores)
        self.finite: NDArray[np.bool_] | None = None if finite.all() else np.asarray(finite.all(axis=1))
        self._columns: tuple[list[Any], ...] | None = None

    @property
    def columns(self) -> tuple[list[Any], ...]:
        """Label, scores, margin, certified radius and runner-up of every answer."""
        if self._columns is None:
            found, radii = self.predictions, self.predictions.radii
            arrays = (radii.label, found.scores, radii.margin, radii.certified_radius, radii.runner_up)
            self._columns = tuple(array.tolist() for array in arrays)
        return self._columns


class Batcher:
    """Merges the requests for one model and norm. Used on the event loop alone.

    Args:
        run: answers (N, d) inputs.
        most_rows: at a time, unless a single request has more.
        metrics: to count in.
    """

    def __init__(self, run: Callable[[Array], Batch], most_rows: int, metrics: Metrics) -> None:
        self._run, self._most_rows, self._metrics = run, most_rows, metrics
        self._queue: deque[tuple[Array, asyncio.Future[Part], float]] = deque()
        self._due = False

    def submit(self, inputs: Array) -> asyncio.Future[Part]:
        """Queues (n, d) inputs; the result are their answers, or what running them raised."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Part] = loop.create_future()
        self._queue.append((inputs, future, perf_counter()))
        self._metrics.queued_rows.value += len(inputs)
        if not self._due:
            self._due = True
            # In the second turn from now: the first reads what has arrived meanwhile, which then joins.
            loop.call_soon(loop.call_soon, self._next)
        return future

    def _next(self) -> None:
        taken: list[tuple[Array, asyncio.Future[Part]]] = []
        rows, metrics, begun = 0, self._metrics, perf_counter()
        while self._queue and (not taken or rows + len(self._queue[0][0]) <= self._most_rows):
            inputs, future, since = self._queue.popleft()
            metrics.queued_rows.value -= len(inputs)
            if not future.done():  # its client may have gone
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
        except Exception as error:  # each request is told; one that failed alone fails in every batch
            for _, future in taken:
                future.set_exception(error)
            return
        metrics.run_seconds.observe(perf_counter() - begun)
        metrics.batch_rows.observe(rows)
        start = 0
        for inputs, future in taken:
            future.set_result(Part(batch, start, start := start + len(inputs)))
