"""Open local files and object stores by path or URL, through fsspec."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lipmodel.errors import DataError, MissingExtraError


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
        store, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url} cannot be opened: {error}") from None
    return store, path


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
