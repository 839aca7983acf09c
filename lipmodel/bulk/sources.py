"""Find the data that a command names; each process opens them itself."""

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
    """Location of data.

    Attributes:
        name: the argument of the command.
        data_dir, labels: see :func:`lipmodel.data.stream.open_stream`.
        partitions: partitions of the files, if the name is a pattern or URL; else empty.
    """

    name: str
    data_dir: Path | None
    labels: Path | None
    partitions: tuple[Partition, ...]

    def open(self) -> Stream:
        """Open the data as a stream of rows.

        Raises:
            DataError: the data cannot be read.
        """
        if self.partitions:
            return _chained(self.name, self.partitions)
        return open_stream(self.name, self.data_dir, self.labels)


def find_source(name: str, data_dir: Path | None = None, labels: Path | None = None) -> Source:
    """Return the source of data named as for ``open_stream``, or by a pattern or URL of files.

    The rows of several files follow one another in the order of the files' names: inputs and, last, a label
    from ``.parquet``; only inputs from ``.npy``.

    Raises:
        DataError: no file matches or one cannot be read; or labels are given with a pattern or URL.
        MissingExtraError: fsspec is not installed.
    """
    if not ("://" in name or PATTERN.intersection(name)) or Path(name).exists():
        return Source(name, data_dir, labels, ())
    if labels is not None:
        raise DataError(
            f"a separate file of labels is accepted only with one .npy of inputs, not with {name}"
        )
    partitions = tuple(find_partitions(name))
    if len({posixpath.splitext(partition.url)[1] for partition in partitions}) > 1:
        raise DataError(f"{name} matches files of both formats; choose .parquet with labels or .npy without")
    return Source(name, data_dir, None, partitions)


def _chained(name: str, partitions: Sequence[Partition]) -> Stream:
    *starts, rows = accumulate((partition.rows for partition in partitions), initial=0)

    def parts(index: int, size: int) -> Iterator[Any]:
        for partition in partitions[index:]:
            first = partition.first
            for rows_read in read_batches(partition, size):
                # A bad row is reported while its file is still known.
                url = partition.url
                x = split_labels(rows_read, url, first)[0] if url.endswith(PARQUET) else as_float32(rows_read)
                check_finite(x, url, first)
                yield rows_read
                first += len(rows_read)

    def batches(size: int, first: int = 0) -> Iterator[Batch]:
        index = bisect_right(starts, first) - 1
        for table in batched(parts(index, size), size, first - starts[index]):
            if partitions[0].url.endswith(PARQUET):
                yield split_labels(table, name, first)
            else:
                yield as_float32(table), None

    def place(row: int) -> str:
        index = bisect_right(starts, row) - 1
        return f"row {row - starts[index] + partitions[index].first} of {partitions[index].url}"

    return Stream(name, rows, batches, starts=starts, place=place)
