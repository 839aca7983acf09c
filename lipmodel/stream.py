"""Labelled data in batches, so that it may be larger than memory.

The numbers are those that ``load_labelled`` gives: inputs as float32, labels as class indices. A
.npy or a plain IDX file is mapped, a .parquet read by batches; whatever else is read whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lipmodel.cifar import find_batches
from lipmodel.data import FILES, IDX_UNITS, idx_arrays, idx_pixels, load_labelled
from lipmodel.data_files import numbers, parquet_batches, parquet_rows, read_npy, require_file
from lipmodel.dataset import as_float32, class_indices
from lipmodel.errors import DataError

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
        units: what a coordinate of an input measures.
    """

    name: str
    rows: int
    batches: Callable[[int], Iterator[Batch]]
    units: str = "as in the file"


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

    def batches(size: int) -> Iterator[Batch]:
        for start in range(0, len(inputs), size):
            rows = slice(start, start + size)
            yield convert(inputs[rows]), None if labels is None else labels[rows]

    return Stream(name, len(inputs), batches)


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
        return Stream(stream.name, stream.rows, stream.batches, IDX_UNITS)
    data = load_labelled(source, data_dir)
    stream = in_memory(data.name, data.inputs, data.labels)
    return Stream(stream.name, stream.rows, stream.batches, data.units)


def _npy(path: Path, labels: Path | None) -> Stream:
    for file in filter(None, (path, labels)):
        require_file(file, "a .npy file")
    inputs = read_npy(path, mapped=True)
    numbers(inputs[:1], str(path))  # of the right kind and shape
    given = None if labels is None else class_indices(labels.name, read_npy(labels))
    if given is not None and given.shape != (len(inputs),):
        raise DataError(
            f"{labels} has shape {list(given.shape)}; {path} has {len(inputs)} rows: one label each"
        )
    return in_memory(path.name, inputs, given, lambda rows: _flat(as_float32(rows)))


def _parquet(path: Path) -> Stream:
    def batches(size: int) -> Iterator[Batch]:
        for table in parquet_batches(path, size):
            if table.shape[1] < 2:
                raise DataError(f"{path} has one column; inputs and, last, a label are needed")
            yield as_float32(table[:, :-1]), class_indices(path.name, table[:, -1])

    return Stream(path.name, parquet_rows(path), batches)


def _flat(rows: Array) -> Array:
    return rows.reshape(len(rows), -1)
