"""A job's folder as parts of an archive, as a shared database keeps it for whoever takes the job over."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

PART_BYTES = 2**20


def parts_of(folder: Path) -> Iterator[bytes]:
    """The files of the folder, packed."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(folder, arcname=".")
        file.seek(0)
        while part := file.read(PART_BYTES):
            yield part


def unpack(parts: Iterator[bytes], folder: Path) -> None:
    """Makes the folder of such parts.

    Raises:
        OSError: it cannot be written.
        tarfile.TarError: they are not whole.
    """
    with tempfile.TemporaryFile() as file:
        for part in parts:
            file.write(part)
        file.seek(0, io.SEEK_SET)
        with tarfile.open(fileobj=file) as archive:
            archive.extractall(folder, filter="data")
