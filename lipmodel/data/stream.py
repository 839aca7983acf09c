"""Labelled data in batches, so that it may be larger than memory.

The numbers are those that ``load_labelled`` gives: inputs as float32, labels as class indices. A
.npy or a plain IDX file is mapped, a .parquet read by batches; whatever else is read whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lipmodel.data.cifar import find_batches
from lipmodel.data.dataset import as_float32, class_indices
from lipmodel.data.files import numbers, parquet_batches, parquet_groups, read_npy, require_file
from lipmodel.data.load import FILES, IDX_UNITS, idx_arrays, idx_pixels, load_labelled
from lipmodel.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
Batch = tuple[Array, Array | None]
ROWS_APART = 65_536
"""Of the places to begin at, where any row is one."""


class Batches(Protocol):
    """From a number of rows to batches of exactly that many, but for the last."""

    def __call__(self, size: int, first: int = 0) -> Iterator[Batch]:
        """Inputs (n, …) and labels (n,) or None, from row ``first`` on."""


@dataclass(frozen=True)
class Stream:
    """Rows of inputs, with labels or without, read anew each time.

    Attributes:
        name: where they come from, for messages and titles.
        rows: how many there are.
        batches: see there.
        units: what a coordinate of an input measures.
        starts: rows that reading can begin at without reading what is before.
        place: where a row is, for messages.
    """

    name: str
    rows: int
    batches: Batches
    units: str = "as in the file"
    starts: Sequence[int] = (0,)
    place: Callable[[int], str] = "row {}".format


def in_memory(
    name: str, inputs: Any, labels: Any = None, convert: Callable[[Any], Any] = lambda rows: rows
) -> Stream:
    """A stream over arrays, which may be memory maps: a batch at a time is read from them.

    Args:
        name: see :class:`Stream`.
        inputs: (N, …).
        labels: (N,) class indices.
        convert: what makes inputs of the rows of a batch.
    """

    def batches(size: int, first: int = 0) -> Iterator[Batch]:
        for start in range(first, len(inputs), size):
            rows = slice(start, start + size)
            yield convert(inputs[rows]), None if labels is None else labels[rows]

    return Stream(name, len(inputs), batches, starts=range(0, len(inputs), ROWS_APART))


def open_stream(source: str, data_dir: Path | None = None, labels: Path | None = None) -> Stream:
    """Labelled data for evaluation, or inputs for an audit.

    Args:
        source: as for ``load_labelled``; or a ``.npy`` of inputs.
        data_dir: the folder of a named data set that needs one.
        labels: the labels of a ``.npy``, in another.

    Raises:
        DataError: see ``load_labelled``; also labels beside data that have their own.
    """
    path = Path(source)
    if path.suffix == ".npy":
        return _npy(path, labels)
    if labels is not None:
        raise DataError(f"labels in a file of their own belong to a .npy of inputs; {source} has its own")
    if path.suffix == ".parquet" and path.is_file():
        return _parquet(path)
    if path.is_dir() and not find_batches(path) and not any((path / f"test{end}").is_file() for end in FILES):
        images, classes = idx_arrays(path, "t10k")
        stream = in_memory(
            path.name, images, class_indices(path.name, classes), lambda rows: _flat(idx_pixels(rows))
        )
        return replace(stream, units=IDX_UNITS)
    data = load_labelled(source, data_dir)
    return replace(in_memory(data.name, data.inputs, data.labels), units=data.units)


def _npy(path: Path, labels: Path | None) -> Stream:
    for file in filter(None, (path, labels)):
        require_file(file, "a .npy file")
    inputs = read_npy(path, mapped=True)
    numbers(inputs[:1] if inputs.ndim > 1 else inputs, str(path))  # of the right kind and shape
    given = None if labels is None else class_indices(labels.name, read_npy(labels))
    if given is not None and given.shape != (len(inputs),):
        raise DataError(
            f"{labels} has shape {list(given.shape)}; {path} has {len(inputs)} rows: one label each"
        )
    return in_memory(path.name, inputs, given, lambda rows: _flat(as_float32(rows)))


def _parquet(path: Path) -> Stream:
    def batches(size: int, first: int = 0) -> Iterator[Batch]:
        for table in parquet_batches(path, size, first):
            yield split_labels(table, path.name, first)
            first += len(table)

    *starts, rows = [0, *accumulate(parquet_groups(path))]
    return Stream(path.name, rows, batches, starts=starts)


def split_labels(table: Array, name: str, first_row: int) -> tuple[Array, Array]:
    """Inputs as float32 and labels, the last column; errors count rows from ``first_row``.

    Raises:
        DataError: there is no column besides, or labels are no whole numbers.
    """
    if table.shape[1] < 2:
        raise DataError(f"{name} has one column; inputs and, last, a label are needed")
    return as_float32(table[:, :-1]), class_indices(name, table[:, -1], first_row)


def _flat(rows: Array) -> Array:
    return rows.reshape(len(rows), -1)
