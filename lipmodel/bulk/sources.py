"""Labelled data of any kind that the commands accept, opened by each process for itself."""

from __future__ import annotations

import posixpath
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from lipmodel.bulk.partitions import PARQUET, Partition, find_partitions, read_batches
from lipmodel.data.dataset import as_float32
from lipmodel.data.files import batched, check_finite
from lipmodel.data.stream import Batch, Stream, open_stream, split_labels
from lipmodel.errors import DataError

PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Source:
    """Where data are.

    Attributes:
        name: as the command was given it.
        data_dir, labels: see :func:`lipmodel.data.stream.open_stream`.
        partitions: of the files, where it is a pattern or a URL; else empty.
    """

    name: str
    data_dir: Path | None
    labels: Path | None
    partitions: tuple[Partition, ...]

    def open(self) -> Stream:
        """The rows.

        Raises:
            DataError: they cannot be read.
        """
        if self.partitions:
            return _chained(self.name, self.partitions)
        return open_stream(self.name, self.data_dir, self.labels)


def find_source(name: str, data_dir: Path | None = None, labels: Path | None = None) -> Source:
    """Data by whatever ``open_stream`` accepts; or by a pattern or URL of files.

    The rows of several files follow one another in the order of the files' names: inputs with, last, a
    label from ``.parquet``, inputs alone from ``.npy``.

    Raises:
        DataError: there are no such files, or they cannot be read; labels beside a pattern or URL.
        MissingExtraError: fsspec is not installed.
    """
    if not ("://" in name or PATTERN.intersection(name)) or Path(name).exists():
        return Source(name, data_dir, labels, ())
    if labels is not None:
        raise DataError(f"labels in a file of their own belong to one .npy of inputs, not to {name}")
    partitions = tuple(find_partitions(name))
    if len({posixpath.splitext(partition.url)[1] for partition in partitions}) > 1:
        raise DataError(
            f"{name} names files of both kinds; .parquet with labels or .npy without are accepted"
        )
    return Source(name, data_dir, None, partitions)


def _chained(name: str, partitions: Sequence[Partition]) -> Stream:
    *starts, rows = accumulate((partition.rows for partition in partitions), initial=0)

    def pieces(index: int, size: int) -> Iterator[Any]:
        for partition in partitions[index:]:
            first = partition.first
            for piece in read_batches(partition, size):
                _check(partition.url, first, piece)
                yield piece
                first += len(piece)

    def batches(size: int, first: int = 0) -> Iterator[Batch]:
        index = bisect_right(starts, first) - 1
        for table in batched(pieces(index, size), size, first - starts[index]):
            if partitions[0].url.endswith(PARQUET):
                yield split_labels(table, name, first)
            else:
                yield as_float32(table), None

    def place(row: int) -> str:
        index = bisect_right(starts, row) - 1
        return f"row {row - starts[index] + partitions[index].first} of {partitions[index].url}"

    return Stream(name, rows, batches, starts=starts, place=place)


def _check(url: str, first: int, piece: Any) -> None:
    """Refuses a bad row where it can still be told of which file it is."""
    inputs = split_labels(piece, url, first)[0] if url.endswith(PARQUET) else as_float32(piece)
    check_finite(inputs, url, first)
