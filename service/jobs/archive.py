"""A job's folder as an archive in parts, which a shared database stores for servers that take jobs over."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

PART_BYTES = 2**20


def parts_of(folder: Path) -> Iterator[bytes]:
    """Yield the parts of an archive of a folder."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(folder, arcname=".")
        file.seek(0)
        while part := file.read(PART_BYTES):
            yield part


def unpack(parts: Iterator[bytes], folder: Path) -> None:
    """Extract an archive in parts to a folder.

    Raises:
        OSError: the folder cannot be written.
        tarfile.TarError: the archive is incomplete or damaged.
    """
    with tempfile.TemporaryFile() as file:
        for part in parts:
            file.write(part)
        file.seek(0, io.SEEK_SET)
        with tarfile.open(fileobj=file) as archive:
            archive.extractall(folder, filter="data")
