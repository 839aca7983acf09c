"""Files of rows cut into partitions, each of which is read by itself; certified, it has a file of results.

A partition is a row group of a ``.parquet`` or 65,536 rows of a ``.npy``: what can be read from the middle of
a file without reading what is before it.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lipmodel.bulk.stores import open_store, reached
from lipmodel.data.files import batched, group_sizes, open_parquet, reading, table_batches
from lipmodel.errors import DataError

NPY_ROWS = 65_536
PARQUET = ".parquet"
ACCEPTED = ".npy and .parquet files are accepted, by path, pattern ('dir/*.parquet') or URL ('s3://…')"
PASSED_OVER = (".", "_")
"""What a name begins with that readers of a folder of parquet files pass over."""
LOOKERS = 16
"""Files that are opened at a time: in an object store each takes some time, none much else."""


@dataclass(frozen=True)
class Partition:
    """Some consecutive rows of a file.

    Attributes:
        url: of the file.
        file: its name below what all files share; the file of results is named after it.
        key: another one where the file was written again.
        index: number of the partition in its file; that of the row group in a ``.parquet``.
        first: number of its first row in the file.
        rows: how many.
    """

    url: str
    file: str
    key: str
    index: int
    first: int
    rows: int

    @property
    def name(self) -> str:
        """Of its file of results; in the order of names stand the rows in theirs."""
        return f"{self.file}.{self.index:06d}.parquet"


def find_partitions(source: str) -> list[Partition]:
    """The partitions of all files that a path, a pattern or a URL names, in order.

    Raises:
        DataError: there is none, or one that cannot be read as rows of numbers.
        MissingExtraError: fsspec is not installed.
    """
    store, pattern = open_store(source)
    with reached(source):
        if store.isfile(pattern):
            paths = [pattern]
        else:
            found = store.glob(pattern, detail=True)
            paths = sorted(path for path, told in found.items() if told["type"] == "file")
    if not paths:
        raise DataError(f"there is no file {source}; {ACCEPTED}")
    root = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    with ThreadPoolExecutor(LOOKERS) as threads:
        parts = list(threads.map(partial(_split, store, root), paths))
    partitions = [partition for part in parts for partition in part]
    if not partitions:
        raise DataError(f"{source} has no rows; at least one is needed")
    return partitions


def _split(store: Any, root: str, path: str) -> list[Partition]:
    url, file = store.unstrip_protocol(path), posixpath.relpath(path, root)
    if any(name.startswith(PASSED_OVER) for name in file.split("/")):
        raise DataError(f"{url}: readers of parquet folders pass over names that begin with '.' or '_'")
    with reached(url):
        key, opened = store.ukey(path), store.open(path, "rb")
    with opened:
        if path.endswith(PARQUET):
            sizes = group_sizes(open_parquet(url, opened))
        elif path.endswith(".npy"):
            rows = _open_npy(opened, url).shape[0]
            sizes = [min(NPY_ROWS, rows - first) for first in range(0, rows, NPY_ROWS)]
        else:
            raise DataError(f"{url} has an unknown ending; {ACCEPTED}")
    starts = np.cumsum([0, *sizes]).tolist()
    return [Partition(url, file, key, i, starts[i], size) for i, size in enumerate(sizes) if size]


def read_batches(partition: Partition, size: int) -> Iterator[Any]:
    """The rows of a partition, ``size`` at a time, the last perhaps fewer.

    Raises:
        DataError: they cannot be read, or are not as many as there were.
    """
    store, path = open_store(partition.url)
    with reached(partition.url):
        opened = store.open(path, "rb")
    with opened:
        if path.endswith(PARQUET):
            file = open_parquet(partition.url, opened)
            batches = batched(table_batches(file, partition.url, size, [partition.index]), size)
        else:
            batches = _npy_batches(opened, partition, size)
        done = 0
        for rows in batches:
            yield rows
            done += len(rows)
    if done != partition.rows:
        raise DataError(f"{partition.url} was written again while it was read")


class _Npy(NamedTuple):
    """Where rows stand in an open .npy file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])


def _open_npy(opened: Any, url: str) -> _Npy:
    with reading(url, "a .npy file of numbers"):
        version = np.lib.format.read_magic(opened)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(opened)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(opened)
        else:
            raise ValueError(f"its format's version is {version}; (1, 0) and (2, 0) are accepted")
        found = _Npy(shape, dtype, opened.tell())
        if dtype.kind not in "fiu" or len(shape) < 2 or not math.prod(shape[1:]):
            raise ValueError(f"it holds {dtype} of shape {list(shape)}; rows of numbers are accepted")
        if fortran:
            raise ValueError("it is stored column by column; row by row (order='C') is accepted")
        if opened.seek(0, 2) != found.start + shape[0] * found.row_bytes:
            raise ValueError("it is truncated, or longer than it says")
    return found


def _npy_batches(opened: Any, partition: Partition, size: int) -> Iterator[Any]:
    found, end = _open_npy(opened, partition.url), partition.first + partition.rows
    opened.seek(found.start + partition.first * found.row_bytes)
    for first in range(partition.first, end, size):
        rows = min(size, end - first)
        with reading(partition.url, "a .npy file of numbers"):
            content = opened.read(rows * found.row_bytes)
            yield np.frombuffer(content, found.dtype).reshape(rows, -1)
