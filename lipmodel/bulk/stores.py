"""Files here or in an object store, by path or by URL, all through fsspec."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lipmodel.errors import DataError, MissingExtraError


def open_store(url: str) -> tuple[Any, str]:
    """The file system of a path or a URL (``s3://…``), and the path in it.

    Raises:
        MissingExtraError: fsspec is not installed.
        DataError: there is no such kind of store, or what speaks to it is not installed.
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
def reached(url: str) -> Iterator[None]:
    """Turns whatever a store raises where it cannot be reached, read or written into one line.

    Stores of different kinds raise different errors, which have no base in common but these.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{url}: {reason}") from error
