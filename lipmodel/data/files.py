"""Files of numbers, read or refused: IDX, CSV, NPY, NPZ and parquet.

Whatever is wrong with a file becomes a :class:`~lipmodel.errors.DataError` of one line that names it.
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
"""Of a zip archive: some ten thousand members."""

# What readers raise of files that are damaged, or are something else.
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, TypeError,
    zlib.error, zipfile.BadZipFile, csv.Error,
)  # fmt: skip


@contextmanager
def reading(path: Path | str, expected: str) -> Iterator[None]:
    """Turns whatever reading a file raises into one line that names the file."""
    try:
        yield
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as {expected}: {reason}") from error


def require_file(path: Path, accepted: str) -> None:
    """Refuses a path that is no file, saying what is accepted."""
    if not path.is_file():
        raise DataError(f"there is no file {path}; {accepted} is accepted")


def _member(path: Path, arrays: Any, names: tuple[str, str]) -> Any:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise DataError(
        f"{path} has no array named '{names[0]}' or '{names[1]}' (it has {', '.join(arrays) or 'none'})"
    )


def numbers(raw: Any, source: str) -> Array:
    """Rows of numbers as float64; anything else is refused."""
    array = np.asarray(raw)
    if array.dtype.kind not in "fiu":
        raise DataError(f"{source} holds {array.dtype} values; only numbers are accepted")
    if array.ndim < 2 or (len(array) and not array[0].size):
        accepted = "rows of at least one number are accepted; one input is one row: x.reshape(1, -1)"
        raise DataError(f"{source} has shape {list(array.shape)}; {accepted}")
    return array.astype(np.float64)


def check_finite(inputs: NDArray[Any], source: str, first_row: int = 0) -> None:
    """Refuses NaN and infinities, naming the first; rows are counted from ``first_row``."""
    bad = ~np.isfinite(inputs)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad.reshape(len(bad), -1))[0])
        raise DataError(
            f"{source}: row {first_row + row}, column {column} is not a finite number; fill or drop it"
        )


def read_npy(path: Path, *, mapped: bool = False) -> Any:
    """The array of a .npy file; ``mapped``, not read: the system fetches what is looked at."""
    # Opened here, as below: numpy leaves its own file open where it holds something else.
    with reading(path, "a .npy file of numbers"):
        if mapped:
            return np.lib.format.open_memmap(path, "r")
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def read_npz(path: Path, *names: tuple[str, str]) -> list[Any]:
    """Arrays of a .npz file, each by either of two names."""
    with reading(path, "a .npz file"), path.open("rb") as file:
        check_directory(file, str(path))
        with np.load(file, allow_pickle=False) as arrays:
            return [_member(path, arrays, pair) for pair in names]


def check_directory(file: IO[bytes], name: str) -> None:
    """Raise DataError where a zip archive announces a directory larger than arrays need.

    ``zipfile`` reads all of it when it opens an archive: a million members take 390 MB. The function that
    ``zipfile`` itself calls finds the end record, so both see the same one.
    """
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # None where the file is no archive
    if end and end[zipfile._ECD_SIZE] > MAX_DIRECTORY_BYTES:  # type: ignore[attr-defined]
        raise DataError(
            f"{name} announces a directory of {end[zipfile._ECD_SIZE]} bytes; "  # type: ignore[attr-defined]
            f"at most {MAX_DIRECTORY_BYTES} are accepted: keep the arrays inputs and labels alone"
        )
    file.seek(0)


def find_file(folder: Path, *names: str) -> Path:
    """The first of these files that the folder holds, as it is or with ``.gz``."""
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}; one that holds {names[0]}[.gz] is needed (nothing is downloaded)"
        )
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    wanted = " nor ".join(f"{name} nor {name}.gz" for name in names)
    raise DataError(f"{folder} has neither {wanted}; put it there (nothing is downloaded)")


def read_bytes(path: Path, what: str) -> bytes:
    """The content of a file, decompressed where it ends in ``.gz``."""
    with reading(path, what):
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """The lines of a .csv file that are not blank, each with its number and its cells."""
    content = read_bytes(path, "a .csv file")
    with reading(path, "a .csv file in UTF-8"):
        rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        return [(number, cells) for number, cells in enumerate(rows, 1) if any(map(str.strip, cells))]


def read_csv(path: Path) -> tuple[tuple[str, ...], Array]:
    """Names of the columns, if there are any, and numbers separated by commas.

    A first line in which nothing is a number is taken as names.
    """
    lines = read_lines(path)
    names: tuple[str, ...] = ()
    if lines and not any(_is_number(cell) for cell in lines[0][1]):
        names = tuple(cell.strip() for cell in lines.pop(0)[1])
    if not lines:
        raise DataError(f"{path} has no rows of numbers; at least one is needed")
    width = len(lines[0][1])
    for number, cells in lines:
        if len(cells) != width:
            raise DataError(
                f"{path}, line {number}: {len(cells)} columns where {width} are expected; "
                "make all rows equally long"
            )
        for column, cell in enumerate(cells, 1):
            if not _is_number(cell):
                raise DataError(
                    f"{path}, line {number}, column {column}: '{cell[:40]}' is not a number; "
                    "only numbers are accepted: turn each text into columns of 0 and 1, or leave it out"
                )
    return names, np.array([[float(cell) for cell in cells] for _, cells in lines], dtype=np.float64)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_parquet(path: Path) -> tuple[tuple[str, ...], Any]:
    """Names and numbers of all columns of a parquet file, in order."""
    file = open_parquet(path)
    with reading(path, "a parquet file"):
        return tuple(file.schema_arrow.names), _columns(file.read())


def parquet_groups(path: Path) -> list[int]:
    """How many rows each row group of a parquet file has."""
    return group_sizes(open_parquet(path))


def group_sizes(file: Any) -> list[int]:
    """The same of an open one."""
    return [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]


def parquet_batches(path: Path, size: int, first: int = 0) -> Iterator[Any]:
    """Numbers of all columns of a parquet file from row ``first`` on, ``size`` rows at a time.

    No more than that is in memory, and row groups that end before are not read.
    """
    file = open_parquet(path)
    starts = [0, *accumulate(group_sizes(file))]
    group = bisect_right(starts, first) - 1
    groups = range(group, len(starts) - 1)
    return batched(table_batches(file, path, size, groups), size, first - starts[group])


def table_batches(file: Any, path: Path | str, size: int, groups: Sequence[int]) -> Iterator[Any]:
    """Numbers of some row groups of an open parquet file, at most ``size`` rows at a time.

    Args:
        file: as :func:`open_parquet` gives it.
        path: its name, for messages.
        size: rows at a time.
        groups: numbers of row groups.
    """
    with reading(path, "a parquet file"):
        for batch in file.iter_batches(size, row_groups=groups):
            yield _columns(batch)


def batched(pieces: Iterable[Any], size: int, skip: int = 0) -> Iterator[Any]:
    """Rows that come in pieces of any length, ``size`` at a time (the last fewer), but for the first ones."""
    left: Any = None
    for piece in pieces:
        rows = piece[skip:]
        skip = max(0, skip - len(piece))
        left = rows if left is None else np.concatenate([left, rows])
        while len(left) >= size:
            yield left[:size]
            left = left[size:]
    if left is not None and len(left):
        yield left


def open_parquet(path: Path | str, source: Any = None) -> Any:
    """A parquet file, of numbers alone.

    Args:
        path: of the file.
        source: the file itself, opened to read its bytes; by default it is opened here.
    """
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        types = importlib.import_module("pyarrow.types")
    except ModuleNotFoundError:
        raise DataError(
            f"{path}: reading parquet needs pyarrow, which is not installed: "
            "pip install 'lipcert[tables]', or give .npy or .csv"
        ) from None
    with reading(path, "a parquet file"):
        file = parquet.ParquetFile(path if source is None else source)
    for column in file.schema_arrow:
        if not (types.is_integer(column.type) or types.is_floating(column.type)):
            raise DataError(
                f"{path}: column '{column.name}' holds no numbers; only numbers are accepted: "
                "turn each text into columns of 0 and 1, or leave it out"
            )
    return file


def _columns(table: Any) -> Any:
    columns = [column.to_numpy(zero_copy_only=False) for column in table.columns]
    return np.column_stack(columns) if columns else np.empty((0, 0))


def read_idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """An array of bytes: magic number 0x00000800 + dimensions, sizes as big-endian int32, the bytes.

    A file that is not compressed is mapped, not read: the system fetches what is looked at.
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
            f"{path} announces {' × '.join(map(str, shape))} bytes and holds {len(content) - header}; "
            "it is truncated or damaged: fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
