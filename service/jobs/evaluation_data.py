"""Labelled data for evaluations, accepted or refused before a job is queued.

Files are untrusted: the sizes that they declare are compared with limits and with their content before memory
is allocated. The job's process reads the content by :func:`lipmodel.data.stream.open_stream`, like ``lipmodel
evaluate``.
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
"""Bytes of the footer's length and the magic number, at the end of a parquet file."""
NPZ, PARQUET, GZIP = b"PK\x03\x04", b"PAR1", b"\x1f\x8b"


def from_rows(inputs: Array, labels: list[int], classes: int) -> Fill:
    """Return a function that writes the rows of a request as arrays into a job's folder.

    Args:
        inputs: (N, d).
        labels: N indices of classes.
        classes: number of classes.

    Raises:
        InputError: the number of labels is not N, or a label is not the index of a class.
    """
    if len(labels) != len(inputs):
        raise InputError(
            f"has {len(labels)} labels for {len(inputs)} inputs; expected one for each", field="labels"
        )
    for row, label in enumerate(labels):
        if not 0 <= label < classes:
            raise InputError(f"is {str(label)[:20]}; 0 to {classes - 1} are accepted", field=f"labels[{row}]")

    def fill(folder: Path) -> None:
        np.save(folder / "inputs.npy", inputs)
        np.save(folder / "labels.npy", np.array(labels, dtype=np.int64))

    return fill


def from_files(files: Mapping[str, BinaryIO], max_bytes: int) -> tuple[str, Fill]:
    """Return the name of uploaded data in a job's folder, and a function that writes it there.

    Args:
        files: ``data``, or ``images`` and ``labels``.
        max_bytes: limit of the decompressed size.

    Raises:
        DataError: the format is not known; raised by the returned function: the data is not accepted.
    """
    if "data" not in files:
        return IDX_FOLDER, lambda folder: _idx(files, folder / IDX_FOLDER, max_bytes)
    start = files["data"].read(4)
    files["data"].seek(0)
    name, check = {NPZ: ("data.npz", check_npz), PARQUET: ("data.parquet", _check_parquet)}.get(
        start, ("", None)
    )
    if check is None:
        raise DataError("data is neither a .npz nor a .parquet file, the accepted formats")

    def fill(folder: Path) -> None:
        with (folder / name).open("wb") as copy:
            shutil.copyfileobj(files["data"], copy, CHUNK)
        try:
            check(folder / name, max_bytes)
        except DataError:
            raise
        except Exception as error:  # the readers raise exceptions of many kinds on damaged files
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            reason = reason.replace(f"{folder}/", "")
            raise DataError(f"{name} cannot be read: {reason}") from error

    return name, fill


def _idx(files: Mapping[str, BinaryIO], folder: Path, max_bytes: int) -> None:
    """Write IDX files decompressed, up to the limit."""
    folder.mkdir()
    for name, file in files.items():
        zipped = file.read(2) == GZIP
        file.seek(0)
        source = gzip.GzipFile(fileobj=file, mode="rb") if zipped else file
        try:
            with (folder / IDX_NAMES[name]).open("wb") as copy:
                while chunk := source.read(CHUNK):
                    max_bytes -= len(chunk)
                    if max_bytes < 0:
                        raise _too_much()
                    copy.write(chunk)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:  # other OSErrors come from writing
            raise DataError(f"{name} cannot be decompressed: {error}") from error


def _check_parquet(path: Path, max_bytes: int) -> None:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise DataError("this service cannot read parquet (pyarrow is not installed); send .npz") from None
    with path.open("rb") as content:
        content.seek(-PARQUET_END, os.SEEK_END)
        end = content.read()
    footer = int.from_bytes(end[:-4], "little")
    # The whole footer is decoded when the file is opened, into several times as much memory.
    if end[-4:] == PARQUET and footer > MAX_FOOTER_BYTES:
        raise DataError(f"the parquet footer has {footer} bytes; at most {MAX_FOOTER_BYTES} are accepted")
    with parquet.ParquetFile(path) as file:
        metadata = file.metadata
        groups = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        # Repeated numbers take no bytes in the file, but eight each in memory.
        if max(metadata.num_rows * metadata.num_columns * 8, groups) > max_bytes:
            raise _too_much()


def _too_much() -> DataError:
    return DataError("the data is too large once decompressed; max_data_bytes is the limit")
