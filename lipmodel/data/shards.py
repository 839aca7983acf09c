"""Rows in shards, so that several processes may look at them and see what one process sees, bit for bit.

A shard is a run of whole batches, and a batch begins where the number of its first row says, whoever reads it
and however rows lie in files. Whatever is random in a batch is seeded by that number too.
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

Seen_co = TypeVar("Seen_co", covariant=True)
Found = TypeVar("Found")


class Look(Protocol[Seen_co]):
    """What is done with a shard. It is sent to other processes, so it can be pickled, and what it sees."""

    def __call__(
        self, predictor: CertifiedPredictor, data: Stream | None, rows: range, progress: Progress
    ) -> Seen_co:
        """What is seen of some consecutive rows."""


class Spread(Protocol):
    """What has shards looked at by others."""

    def __call__(self, look: Look[Found], shards: Sequence[range], progress: Progress) -> Iterator[Found]:
        """What is seen of each shard, in order."""


def batches_within(data: Stream, rows: range, step: int) -> Iterator[tuple[int, Array, Array | None]]:
    """Batches of ``step`` rows of a shard: the number of the first row, inputs and labels.

    Raises:
        DataError: they cannot be read, or are not as many as there were.
    """
    first = rows.start
    for inputs, labels in data.batches(step, first):
        yield first, inputs, labels
        first += len(inputs)
        if first >= rows.stop:
            break
    if first != rows.stop:
        raise DataError(f"{data.name} was written again while it was read")


def chosen_rows(data: Stream, rows: Sequence[int], step: int) -> Array:
    """Return inputs (n, …) of some rows, in ascending order, reading ``step`` rows at a time.

    Raises:
        DataError: they cannot be read, or are not as many as there were.
    """
    parts, wanted, first = [], np.array(rows), rows[0]
    for inputs, _ in data.batches(step, first):
        parts.append(inputs[wanted[(wanted >= first) & (wanted < first + len(inputs))] - first])
        first += len(inputs)
        if first > rows[-1]:
            return np.concatenate(parts)
    raise DataError(f"{data.name} was written again while it was read")


def cut(rows: int, step: int, starts: Sequence[int], slow: int = 0) -> list[range]:
    """Shards of some rows.

    Args:
        rows: how many.
        step: rows of a batch.
        starts: where reading can begin; a shard begins with the first batch from there on.
        slow: the first rows, for which a batch is work enough.
    """
    begins = {*range(0, min(rows, slow + step), step), *(-(-start // step) * step for start in starts)}
    return [range(a, b) for a, b in pairwise([*sorted(begin for begin in begins if begin < rows), rows])]
