"""Divide rows into shards, so that several processes compute exactly what one process computes.

A shard is a run of whole batches. A batch begins at a fixed row number, independently of the process and of
the layout of files, and random numbers of a batch are seeded by its first row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.stream import Array, Stream
from lipmodel.errors import DataError
from lipmodel.progress import Progress

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class ShardTask(Protocol[Result_co]):
    """Work on one shard; picklable, as is its result, since other processes run it."""

    def __call__(
        self, predictor: CertifiedPredictor, data: Stream | None, rows: range, progress: Progress
    ) -> Result_co:
        """Return the result of consecutive rows that begin at the start of a batch."""


class ShardExecutor(Protocol):
    """A group of processes that run tasks on shards."""

    def __call__(
        self, task: ShardTask[Result], shards: Sequence[range], progress: Progress
    ) -> Iterator[Result]:
        """Yield the result of each shard, in order."""


def batches_within(data: Stream, rows: range, step: int) -> Iterator[tuple[int, Array, Array | None]]:
    """Yield the batches of ``step`` rows of a shard: number of the first row, inputs, labels.

    Raises:
        DataError: rows cannot be read, or their number has changed.
    """
    first = rows.start
    for inputs, labels in data.batches(step, first):
        yield first, inputs, labels
        first += len(inputs)
        if first >= rows.stop:
            break
    if first != rows.stop:
        raise _changed(data)


def chosen_rows(data: Stream, rows: Sequence[int], step: int) -> Array:
    """Return the inputs (n, …) of some rows, in ascending order, reading ``step`` rows at a time.

    Raises:
        DataError: rows cannot be read, or their number has changed.
    """
    parts, wanted, first = [], np.array(rows), rows[0]
    for inputs, _ in data.batches(step, first):
        parts.append(inputs[wanted[(wanted >= first) & (wanted < first + len(inputs))] - first])
        first += len(inputs)
        if first > rows[-1]:
            return np.concatenate(parts)
    raise _changed(data)


def _changed(data: Stream) -> DataError:
    return DataError(f"{data.name} was modified while it was being read; run the command again")


def cut(rows: int, step: int, starts: Sequence[int], slow: int = 0) -> list[range]:
    """Return shards of rows.

    Args:
        rows: number of rows.
        step: rows of a batch.
        starts: rows at which reading can begin; a shard begins at the first batch from each.
        slow: number of first rows that take long; each of their batches is a shard.
    """
    begins = {*range(0, min(rows, slow + step), step), *(-(-start // step) * step for start in starts)}
    return [range(a, b) for a, b in pairwise([*sorted(begin for begin in begins if begin < rows), rows])]
