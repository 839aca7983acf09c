"""Divide files of rows into partitions that are read independently; each has one file of results.

A partition is a row group of a ``.parquet`` or 65,536 rows of a ``.npy``: both can be read without reading
earlier parts of the file.
"""

from __future__ import annotations

import importlib
import math
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lipmodel.data.files import batched, group_sizes, open_parquet, reading, table_batches
from lipmodel.errors import DataError, MissingExtraError

NPY_ROWS = 65_536
PARQUET = ".parquet"
ACCEPTED = ".npy and .parquet files are accepted, by path, pattern ('dir/*.parquet') or URL ('s3://…')"
IGNORED_PREFIXES = (".", "_")
"""Prefixes of names that readers of parquet folders ignore."""
MAX_OPEN_FILES = 16
"""Files opened at the same time: in an object store each takes some time, but little of anything else."""


def open_store(url: str) -> tuple[Any, str]:
    """Return the file system of a path or URL (``s3://…``), and the path in it.

    Raises:
        MissingExtraError: fsspec is not installed.
        DataError: the protocol is unknown, or its package is not installed.
    """
    try:
        fsspec = importlib.import_module("fsspec.core")
    except ModuleNotFoundError:
        raise MissingExtraError("files by pattern or URL", "tables") from None
    try:
        return fsspec.url_to_fs(url)  # type: ignore[no-any-return]
    except (ImportError, ValueError) as error:
        raise DataError(f"{url} cannot be opened: {error}") from None


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Turn errors of reaching, reading or writing a store into a DataError of one line.

    Stores of different kinds raise different errors, which have no other common base classes.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{url}: {reason}") from error


@dataclass(frozen=True)
class Partition:
    """Consecutive rows of a file.

    Attributes:
        url: URL of the file.
        file: path of the file relative to the common folder of all files; names the file of results.
        key: version of the file, which changes when the file is rewritten.
        index: index of the partition in the file; in a ``.parquet`` that of the row group.
        first: index of the first row in the file.
        rows: number of rows.
    """

    url: str
    file: str
    key: str
    index: int
    first: int
    rows: int

    @property
    def name(self) -> str:
        """Name of the file of results; names sort in the order of the rows."""
        return f"{self.file}.{self.index:06d}.parquet"


def find_partitions(source: str) -> list[Partition]:
    """Return the partitions of all files that match a path, pattern or URL, in order.

    Raises:
        DataError: no file matches, or one cannot be read as rows of numbers.
        MissingExtraError: fsspec is not installed.
    """
    store, pattern = open_store(source)
    with store_errors(source):
        if store.isfile(pattern):
            paths = [pattern]
        else:
            found = store.glob(pattern, detail=True)
            paths = sorted(path for path, entry in found.items() if entry["type"] == "file")
    if not paths:
        raise DataError(f"{source} not found; {ACCEPTED}")
    root = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    with ThreadPoolExecutor(MAX_OPEN_FILES) as threads:
        parts = list(threads.map(partial(_split, store, root), paths))
    partitions = [partition for part in parts for partition in part]
    if not partitions:
        raise DataError(f"{source} has no rows; at least one is required")
    return partitions


def _split(store: Any, root: str, path: str) -> list[Partition]:
    url, file = store.unstrip_protocol(path), posixpath.relpath(path, root)
    if any(name.startswith(IGNORED_PREFIXES) for name in file.split("/")):
        raise DataError(
            f"{url}: readers of parquet folders ignore names that begin with '.' or '_'; rename it"
        )
    with store_errors(url):
        key, opened = store.ukey(path), store.open(path, "rb")
    with opened:
        if path.endswith(PARQUET):
            sizes = group_sizes(open_parquet(url, opened))
        elif path.endswith(".npy"):
            rows = _open_npy(opened, url).shape[0]
            sizes = [min(NPY_ROWS, rows - first) for first in range(0, rows, NPY_ROWS)]
        else:
            raise DataError(f"{url} has an unknown suffix; {ACCEPTED}")
    starts = np.cumsum([0, *sizes]).tolist()
    return [Partition(url, file, key, i, starts[i], size) for i, size in enumerate(sizes) if size]


def read_batches(partition: Partition, size: int) -> Iterator[Any]:
    """Yield the rows of a partition in batches of ``size``, the last perhaps shorter.

    Raises:
        DataError: rows cannot be read, or their number has changed.
    """
    store, path = open_store(partition.url)
    with store_errors(partition.url):
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
        raise DataError(f"{partition.url} was modified while it was being read; run the command again")


class _Npy(NamedTuple):
    """Layout of the rows in an open .npy file."""

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
            raise ValueError(f"format version {version} is not supported; (1, 0) and (2, 0) are")
        found = _Npy(shape, dtype, opened.tell())
        if dtype.kind not in "fiu" or len(shape) < 2 or not math.prod(shape[1:]):
            raise ValueError(f"the array has type {dtype} and shape {list(shape)}; expected rows of numbers")
        if fortran:
            raise ValueError("the array is stored column by column; save it row by row (order='C')")
        if opened.seek(0, 2) != found.start + shape[0] * found.row_bytes:
            raise ValueError("the size of the file differs from its header; the file is truncated or damaged")
    return found


def _npy_batches(opened: Any, partition: Partition, size: int) -> Iterator[Any]:
    found, end = _open_npy(opened, partition.url), partition.first + partition.rows
    opened.seek(found.start + partition.first * found.row_bytes)
    for first in range(partition.first, end, size):
        rows = min(size, end - first)
        with reading(partition.url, "a .npy file of numbers"):
            content = opened.read(rows * found.row_bytes)
            yield np.frombuffer(content, found.dtype).reshape(rows, -1)
