"""Labelled data in batches, so that it may be larger than memory.

The numbers are those that ``load_labelled`` gives: inputs as float32, labels as class indices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Batch = tuple[Array, Array | None]


@dataclass(frozen=True)
class Stream:
    """Rows of inputs, with labels or without, read anew each time.

    Attributes:
        name: where they come from, for messages and titles.
        rows: how many there are.
        batches: from a number of rows to batches of exactly that many, but for the last: inputs
            (n, …) and labels (n,) or None.
    """

    name: str
    rows: int
    batches: Callable[[int], Iterator[Batch]]


def in_memory(name: str, inputs: Any, labels: Any = None) -> Stream:
    """A stream over arrays, which may be memory maps: a batch at a time is read from them."""

    def batches(size: int) -> Iterator[Batch]:
        for start in range(0, len(inputs), size):
            yield inputs[start : start + size], None if labels is None else labels[start : start + size]

    return Stream(name, len(inputs), batches)
