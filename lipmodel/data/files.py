"""Read files of numbers: IDX, CSV, NPY, NPZ and parquet.

Every defect of a file is raised as a :class:`~lipmodel.errors.DataError` of one line that names the file.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import math
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lipmodel.errors import DataError

Array = NDArray[np.float64]

MAX_DIRECTORY_BYTES = 2**20
"""Maximum size of a zip archive's directory: some ten thousand members."""

# Raised by readers of files that are damaged or have another format.
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, TypeError,
    zlib.error, zipfile.BadZipFile, csv.Error,
)  # fmt: skip


@contextmanager
def reading(path: Path | str, expected: str) -> Iterator[None]:
    """Turn errors of reading a file into a DataError of one line that names the file."""
    try:
        yield
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as {expected}: {reason}") from error


def require_file(path: Path, accepted: str) -> None:
    """Raise DataError, naming the accepted formats, if the path is not a file."""
    if not path.is_file():
        raise DataError(f"{path} not found; expected {accepted}")


def _member(path: Path, arrays: Any, names: tuple[str, str]) -> Any:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise DataError(
        f"{path} has no array '{names[0]}' or '{names[1]}' (found: {', '.join(arrays) or 'none'})"
    )


def numbers(raw: Any, source: str) -> Array:
    """Return rows of numbers as float64; raise DataError for other types and shapes."""
    array = np.asarray(raw)
    if array.dtype.kind not in "fiu":
        raise DataError(f"{source} has type {array.dtype}; only numbers are accepted")
    if array.ndim < 2 or (len(array) and not array[0].size):
        accepted = "expected rows of at least one number; reshape a single input with x.reshape(1, -1)"
        raise DataError(f"{source} has shape {list(array.shape)}; {accepted}")
    return array.astype(np.float64)


def check_finite(inputs: NDArray[Any], source: str, first_row: int = 0) -> None:
    """Raise DataError naming the first NaN or infinity; rows are counted from ``first_row``."""
    bad = ~np.isfinite(inputs)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad.reshape(len(bad), -1))[0])
        raise DataError(
            f"{source}: row {first_row + row}, column {column} is not a finite number; "
            "fill or drop the missing values"
        )


def read_npy(path: Path, *, mapped: bool = False) -> Any:
    """Return the array of a .npy file; ``mapped`` into memory, so that only the pages used are read."""
    # Opened here, since numpy does not close its own file if the content has another format.
    with reading(path, "a .npy file of numbers"):
        if mapped:
            return np.lib.format.open_memmap(path, "r")
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def read_npz(path: Path, *names: tuple[str, str]) -> list[Any]:
    """Return arrays of a .npz file, each under either of two names."""
    with reading(path, "a .npz file"), path.open("rb") as file:
        check_directory(file, str(path))
        with np.load(file, allow_pickle=False) as arrays:
            return [_member(path, arrays, pair) for pair in names]


def check_directory(file: IO[bytes], name: str) -> None:
    """Raise DataError if a zip archive announces a directory larger than arrays need.

    ``zipfile`` reads the whole directory when it opens an archive: a million members take 390 MB. The end
    record is found by ``zipfile``'s own function, so that both see the same one.
    """
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # None if the file is not an archive
    if end and end[zipfile._ECD_SIZE] > MAX_DIRECTORY_BYTES:  # type: ignore[attr-defined]
        raise DataError(
            f"{name} announces a directory of {end[zipfile._ECD_SIZE]} bytes; "  # type: ignore[attr-defined]
            f"at most {MAX_DIRECTORY_BYTES} are accepted: keep only the arrays inputs and labels"
        )
    file.seek(0)


def find_file(folder: Path, *names: str) -> Path:
    """Return the first of these files that exists in the folder, plain or with ``.gz``."""
    if not folder.is_dir():
        raise DataError(
            f"folder {folder} not found; expected a folder with {names[0]}[.gz] (nothing is downloaded)"
        )
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    wanted = " nor ".join(f"{name} nor {name}.gz" for name in names)
    raise DataError(f"{folder} has neither {wanted}; put the file there (nothing is downloaded)")


def read_bytes(path: Path, expected: str) -> bytes:
    """Return the content of a file, decompressed if its name ends in ``.gz``."""
    with reading(path, expected):
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the non-blank lines of a .csv file, each as its number and its cells."""
    content = read_bytes(path, "a .csv file")
    with reading(path, "a .csv file in UTF-8"):
        rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        return [(number, cells) for number, cells in enumerate(rows, 1) if any(map(str.strip, cells))]


def read_csv(path: Path) -> tuple[tuple[str, ...], Array]:
    """Return the names of the columns, if any, and the numbers (N, d) of a .csv file.

    A first line without numbers is read as names.
    """
    lines = read_lines(path)
    names: tuple[str, ...] = ()
    if lines and not any(_is_number(cell) for cell in lines[0][1]):
        names = tuple(cell.strip() for cell in lines.pop(0)[1])
    if not lines:
        raise DataError(f"{path} has no rows of numbers; at least one is required")
    width = len(lines[0][1])
    for number, cells in lines:
        if len(cells) != width:
            raise DataError(
                f"{path}, line {number} has {len(cells)} columns; the first line has {width}: "
                "all rows must be equally long"
            )
        for column, cell in enumerate(cells, 1):
            if not _is_number(cell):
                raise DataError(
                    f"{path}, line {number}, column {column}: '{cell[:40]}' is not a number; "
                    "encode text as columns of 0 and 1, or drop the column"
                )
    return names, np.array([[float(cell) for cell in cells] for _, cells in lines], dtype=np.float64)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_parquet(path: Path) -> tuple[tuple[str, ...], Any]:
    """Return names and numbers of all columns of a parquet file, in order."""
    file = open_parquet(path)
    with reading(path, "a parquet file"):
        return tuple(file.schema_arrow.names), _columns(file.read())


def group_sizes(file: Any) -> list[int]:
    """Return the number of rows of each row group of an open parquet file."""
    return [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]


def parquet_batches(path: Path, size: int, first: int = 0) -> Iterator[Any]:
    """Yield the numbers of all columns of a parquet file from row ``first`` on, ``size`` rows at a time.

    Only one batch is in memory, and row groups that end before ``first`` are not read.
    """
    file = open_parquet(path)
    starts = [0, *accumulate(group_sizes(file))]
    group = bisect_right(starts, first) - 1
    groups = range(group, len(starts) - 1)
    return batched(table_batches(file, path, size, groups), size, first - starts[group])


def table_batches(file: Any, path: Path | str, size: int, groups: Sequence[int]) -> Iterator[Any]:
    """Yield the numbers of some row groups of an open parquet file, at most ``size`` rows at a time.

    Args:
        file: a file opened by :func:`open_parquet`.
        path: name of the file, for messages.
        size: maximum rows of a batch.
        groups: indices of the row groups.
    """
    with reading(path, "a parquet file"):
        for batch in file.iter_batches(size, row_groups=groups):
            yield _columns(batch)


def batched(arrays: Iterable[Any], size: int, skip: int = 0) -> Iterator[Any]:
    """Yield the rows of arrays in batches of ``size`` (the last shorter), skipping the first ``skip``."""
    left: Any = None
    for array in arrays:
        rows = array[skip:]
        skip = max(0, skip - len(array))
        left = rows if left is None else np.concatenate([left, rows])
        while len(left) >= size:
            yield left[:size]
            left = left[size:]
    if left is not None and len(left):
        yield left


def open_parquet(path: Path | str, source: Any = None) -> Any:
    """Open a parquet file whose columns are all numbers.

    Args:
        path: of the file.
        source: the file opened for reading bytes; by default ``path`` is opened.

    Raises:
        DataError: the file cannot be read, a column is not of numbers, or pyarrow is not installed.
    """
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        types = importlib.import_module("pyarrow.types")
    except ModuleNotFoundError:
        raise DataError(
            f"{path}: reading parquet requires pyarrow: pip install 'lipcert[tables]', or convert the file "
            "to .npy or .csv"
        ) from None
    with reading(path, "a parquet file"):
        file = parquet.ParquetFile(path if source is None else source)
    for column in file.schema_arrow:
        if not (types.is_integer(column.type) or types.is_floating(column.type)):
            raise DataError(
                f"{path}: column '{column.name}' has type {column.type}; only numbers are accepted: "
                "encode text as columns of 0 and 1, or drop the column"
            )
    return file


def _columns(table: Any) -> Any:
    columns = [column.to_numpy(zero_copy_only=False) for column in table.columns]
    return np.column_stack(columns) if columns else np.empty((0, 0))


def read_idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of unsigned bytes in an IDX file.

    Format: magic number 0x00000800 + dimensions, sizes as big-endian int32, the bytes. An uncompressed
    file is mapped into memory, so that only the pages used are read.
    """
    path = find_file(folder, name)
    content: Any
    if path.suffix == ".gz" or not path.stat().st_size:
        content = read_bytes(path, "an IDX file")
    else:
        with reading(path, "an IDX file"):
            content = np.memmap(path, np.uint8, "r")
    header = 4 + 4 * dimensions
    magic = 0x0800 + dimensions
    if len(content) < header or int.from_bytes(bytes(content[:4]), "big") != magic:
        raise DataError(
            f"{path} does not begin with the IDX magic number {magic} of {dimensions}-d unsigned bytes"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">i4", dimensions, offset=4))
    if min(shape) < 0 or math.prod(shape) != len(content) - header:
        raise DataError(
            f"{path} announces {' × '.join(map(str, shape))} bytes and has {len(content) - header}; "
            "the file is truncated or damaged: download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
