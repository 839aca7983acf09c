"""Read labelled data in batches, so that the data may be larger than memory.

The numbers equal those of ``load_labelled``: inputs as float32, labels as class indices. A .npy or plain IDX
file is mapped into memory, a .parquet read by batches; other formats are read whole.
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
from lipmodel.data.files import group_sizes, numbers, open_parquet, parquet_batches, read_npy, require_file
from lipmodel.data.load import FILES, IDX_UNITS, idx_arrays, idx_pixels, load_labelled
from lipmodel.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
Batch = tuple[Array, Array | None]
ROWS_APART = 65_536
"""Distance of the starts of a stream that can be read from any row."""


class Batches(Protocol):
    """A function from a batch size to batches of exactly that many rows, except the last."""

    def __call__(self, size: int, first: int = 0) -> Iterator[Batch]:
        """Yield inputs (n, …) and labels (n,) or None, from row ``first`` on."""


@dataclass(frozen=True)
class Stream:
    """Rows of inputs, with or without labels, read again at each iteration.

    Attributes:
        name: name of the data, for messages and titles.
        rows: number of rows.
        batches: reader of the rows.
        units: unit of a coordinate of an input.
        starts: rows at which reading can begin without reading earlier ones.
        place: description of a row's position, for messages.
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
    """Return a stream over arrays, which may be memory maps: one batch at a time is read.

    Args:
        name: see :class:`Stream`.
        inputs: (N, …).
        labels: (N,) class indices.
        convert: function from the rows of a batch to inputs.
    """

    def batches(size: int, first: int = 0) -> Iterator[Batch]:
        for start in range(first, len(inputs), size):
            rows = slice(start, start + size)
            yield convert(inputs[rows]), None if labels is None else labels[rows]

    return Stream(name, len(inputs), batches, starts=range(0, len(inputs), ROWS_APART))


def open_stream(source: str, data_dir: Path | None = None, labels: Path | None = None) -> Stream:
    """Return labelled data for evaluation, or inputs for an audit.

    Args:
        source: as for ``load_labelled``; or a ``.npy`` of inputs.
        data_dir: folder of a named data set that needs one.
        labels: a ``.npy`` of labels, for a ``.npy`` of inputs.

    Raises:
        DataError: see ``load_labelled``; also a file of labels for data that contain labels.
    """
    path = Path(source)
    if path.suffix == ".npy":
        return _npy(path, labels)
    if labels is not None:
        raise DataError(
            f"{source} contains its labels; a separate file of labels is accepted only with a .npy of inputs"
        )
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
    numbers(inputs[:1] if inputs.ndim > 1 else inputs, str(path))  # checks type and shape
    given = None if labels is None else class_indices(labels.name, read_npy(labels))
    if given is not None and given.shape != (len(inputs),):
        raise DataError(
            f"{labels} has shape {list(given.shape)}; expected [{len(inputs)}], one label per row of {path}"
        )
    return in_memory(path.name, inputs, given, lambda rows: _flat(as_float32(rows)))


def _parquet(path: Path) -> Stream:
    def batches(size: int, first: int = 0) -> Iterator[Batch]:
        for table in parquet_batches(path, size, first):
            yield split_labels(table, path.name, first)
            first += len(table)

    *starts, rows = [0, *accumulate(group_sizes(open_parquet(path)))]
    return Stream(path.name, rows, batches, starts=starts)


def split_labels(table: Array, name: str, first_row: int) -> tuple[Array, Array]:
    """Return inputs as float32, and labels from the last column; errors count rows from ``first_row``.

    Raises:
        DataError: there is only one column, or labels are not integers.
    """
    if table.shape[1] < 2:
        raise DataError(f"{name} has one column; expected inputs and, last, the label")
    return as_float32(table[:, :-1]), class_indices(name, table[:, -1], first_row)


def _flat(rows: Array) -> Array:
    return rows.reshape(len(rows), -1)
