"""Labelled data for evaluations, admitted or refused before any work is queued.

Files are untrusted: what they announce is compared with limits and with what they hold before memory
is taken for it. Their contents are read by the worker, with :func:`lipmodel.data.stream.open_stream`, as
``lipmodel evaluate`` reads them.
"""

from __future__ import annotations

import gzip
import importlib
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lipmodel.errors import DataError, InputError
from lipmodel.norms import Array
from service.jobs.queue import Fill
from service.npz import check_npz

CHUNK = 2**20
IDX_FOLDER = "idx"
IDX_NAMES = {"images": "t10k-images-idx3-ubyte", "labels": "t10k-labels-idx1-ubyte"}
MAX_FOOTER_BYTES = 4 * 2**20
PARQUET_END = 8
"""Bytes of the footer's length and the magic number, with which a parquet file ends."""
NPZ, PARQUET, GZIP = b"PK\x03\x04", b"PAR1", b"\x1f\x8b"


def from_rows(inputs: Array, labels: list[int], classes: int) -> Fill:
    """Rows of a request, as arrays for the worker.

    Raises:
        InputError: not one label each, or one that is no class.
    """
    if len(labels) != len(inputs):
        raise InputError(
            f"has {len(labels)} labels of {len(inputs)} inputs; one each is needed", field="labels"
        )
    for row, label in enumerate(labels):
        if not 0 <= label < classes:
            raise InputError(f"is {str(label)[:20]}; 0 to {classes - 1} are accepted", field=f"labels[{row}]")

    def fill(folder: Path) -> None:
        np.save(folder / "inputs.npy", inputs)
        np.save(folder / "labels.npy", np.array(labels, dtype=np.int64))

    return fill


def from_files(files: Mapping[str, BinaryIO], most_bytes: int) -> tuple[str, Fill]:
    """Uploaded files: their place in the worker's folder, and what puts them there.

    Args:
        files: ``data``, or ``images`` and ``labels``; sought in a thread.
        most_bytes: that the data may have once decompressed.

    Raises:
        DataError: here a format that is not known; from the function returned, whatever else is wrong.
    """
    if "data" not in files:
        return IDX_FOLDER, lambda folder: _idx(files, folder / IDX_FOLDER, most_bytes)
    start = files["data"].read(4)
    files["data"].seek(0)
    name, check = {NPZ: ("data.npz", check_npz), PARQUET: ("data.parquet", _check_parquet)}.get(
        start, ("", None)
    )
    if check is None:
        raise DataError("data is neither a .npz nor a .parquet file; these are accepted")

    def fill(folder: Path) -> None:
        with (folder / name).open("wb") as copy:
            shutil.copyfileobj(files["data"], copy, CHUNK)
        try:
            check(folder / name, most_bytes)
        except DataError:
            raise
        except Exception as error:  # damaged files make their readers raise all sorts
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            reason = reason.replace(f"{folder}/", "")
            raise DataError(f"{name} cannot be read: {reason}") from error

    return name, fill


def _idx(files: Mapping[str, BinaryIO], folder: Path, most_bytes: int) -> None:
    """Writes IDX files decompressed, no further than the limit."""
    folder.mkdir()
    for name, file in files.items():
        zipped = file.read(2) == GZIP
        file.seek(0)
        source = gzip.GzipFile(fileobj=file, mode="rb") if zipped else file
        try:
            with (folder / IDX_NAMES[name]).open("wb") as copy:
                while chunk := source.read(CHUNK):
                    most_bytes -= len(chunk)
                    if most_bytes < 0:
                        raise _too_much()
                    copy.write(chunk)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:  # other OSErrors are of writing
            raise DataError(f"{name} cannot be decompressed: {error}") from error


def _check_parquet(path: Path, most_bytes: int) -> None:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise DataError(
            "parquet is not read by this service, which lacks pyarrow; .npz is accepted"
        ) from None
    with path.open("rb") as content:
        content.seek(-PARQUET_END, os.SEEK_END)
        end = content.read()
    footer = int.from_bytes(end[:-4], "little")
    if (
        end[-4:] == PARQUET and footer > MAX_FOOTER_BYTES
    ):  # decoded whole when the file is opened, into several times as much memory
        raise DataError(f"the parquet footer has {footer} bytes; at most {MAX_FOOTER_BYTES} are accepted")
    with parquet.ParquetFile(path) as file:
        told = file.metadata
        groups = sum(told.row_group(i).total_byte_size for i in range(told.num_row_groups))
        # Numbers that repeat take no bytes in the file, and eight each in memory.
        if max(told.num_rows * told.num_columns * 8, groups) > most_bytes:
            raise _too_much()


def _too_much() -> DataError:
    return DataError("the data is too large once decompressed; the limit is the setting max_data_bytes")
