"""Checks of .npz archives before memory is allocated for the arrays that they announce."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from lipmodel.data.files import check_directory
from lipmodel.errors import DataError

MAX_ARRAYS = 64


def check_npz(path: Path, max_bytes: int) -> None:
    """Compare the announced sizes of a .npz file with its contents and with the limit.

    Raises:
        DataError: the contents exceed the limit or are not numbers. The readers of zip and npy raise
            their own errors for damaged files.
    """
    with path.open("rb") as file:
        check_directory(file, path.name)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_ARRAYS:
            raise DataError(f"{path.name} has {len(members)} arrays; at most {MAX_ARRAYS} are accepted")
        if sum(member.file_size for member in members) > max_bytes:
            raise DataError(
                f"{path.name} is too large once decompressed; at most {max_bytes} bytes are accepted"
            )
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{path.name}: '{member.filename}' uses an unsupported compression method")
            with archive.open(member) as file:
                _check_npy(file, f"{path.name}: '{member.filename}'", member.file_size)


def _check_npy(file: IO[bytes], name: str, size: int) -> None:
    """Refuse an array that announces more or fewer bytes than it has: memory is allocated as announced."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DataError(
            f"{name} has the unsupported .npy version {version[0]}.{version[1]}; 1.0 and 2.0 are accepted"
        )
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.kind not in "fiu":
        raise DataError(f"{name} holds {dtype} values; only numbers are accepted")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise DataError(f"{name} announces shape {list(shape)} and holds {size - file.tell()} bytes")
