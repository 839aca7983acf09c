"""Archives of arrays, admitted or refused before memory is taken for what they announce."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from lipmodel.data.files import check_directory
from lipmodel.errors import DataError

MAX_ARRAYS = 64


def check_npz(path: Path, most_bytes: int) -> None:
    """Compares what a .npz file announces with what it holds, and with the limit.

    Raises:
        DataError: it holds more, or something else than numbers; whatever its readers raise of damaged ones.
    """
    with path.open("rb") as file:
        check_directory(file, path.name)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_ARRAYS:
            raise DataError(f"{path.name} has {len(members)} arrays; at most {MAX_ARRAYS} are accepted")
        if sum(member.file_size for member in members) > most_bytes:
            raise DataError(
                f"{path.name} is too large once decompressed; at most {most_bytes} bytes are accepted"
            )
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{path.name}: '{member.filename}' is compressed in a way not accepted")
            with archive.open(member) as file:
                _check_npy(file, f"{path.name}: '{member.filename}'", member.file_size)


def _check_npy(file: IO[bytes], name: str, size: int) -> None:
    """An array must announce just the bytes it has: memory is taken for what it announces."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{name} is in a version of .npy that is not accepted")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.kind not in "fiu":
        raise DataError(f"{name} holds {dtype} values; only numbers are accepted")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise DataError(f"{name} announces shape {list(shape)} and holds {size - file.tell()} bytes")
