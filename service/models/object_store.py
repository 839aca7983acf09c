"""Mirror of an object store in the models folder: all changed files are downloaded before any is replaced."""

from __future__ import annotations

import logging
import os
import posixpath
import time
from pathlib import Path
from typing import Any

from lipmodel.errors import LipcertError, MissingExtraError
from service.models.writer import staging

VERSION_FIELDS = (
    *("size", "ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "mtime", "created"),
)

log = logging.getLogger(__name__)


class MirrorError(LipcertError):
    """The object store cannot be used."""


class Mirror:
    """A local mirror of an object store's folder; local files that are not the store's are left alone.

    Args:
        url: of the store's folder, in the form of fsspec: ``s3://bucket/models``, ``gs://…``, ``file://…``.
        folder: the models folder; created if missing.
        seconds: interval between polls of the store.

    Attributes:
        fault: error of the last poll, or None.

    Raises:
        MirrorError: the kind of store is unknown, or its client is not installed.
        MissingExtraError: fsspec is not installed.
    """

    def __init__(self, url: str, folder: Path, seconds: float) -> None:
        try:
            from fsspec.core import url_to_fs
        except ModuleNotFoundError:
            raise MissingExtraError("models by URL", "stores") from None
        try:
            self._store, self._root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise MirrorError(f"the models' URL cannot be used: {error}") from None
        self._folder, self._seconds = folder, seconds
        self._copied: dict[str, str] = {}
        self._polled = float("-inf")
        self.fault: str | None = None

    def poll(self) -> None:
        """Download the store's changes if the interval has passed; store and log a new fault."""
        if time.monotonic() - self._polled < self._seconds:
            return
        try:
            self._copy()
            self.fault = None
        except Exception as error:  # of any kind, by the store's client: the next poll may succeed
            fault = f"the models could not be copied from the object store: {type(error).__name__}: {error}"
            if fault != self.fault:
                log.warning("%s", fault)
            self.fault = fault
        self._polled = time.monotonic()

    def _copy(self) -> None:
        self._store.invalidate_cache()
        found = self._store.find(self._root, detail=True)
        if not found:  # stores list missing and unavailable folders as empty, too
            raise MirrorError("the folder is empty or missing")
        there = {posixpath.relpath(path, self._root): (path, _version(info)) for path, info in found.items()}
        for name in there:
            if name.startswith("../") or posixpath.isabs(name):
                raise MirrorError(f"'{name}' would be outside of the models folder")
        changed = [name for name, (_, version) in there.items() if self._copied.get(name) != version]
        if changed:
            self._folder.mkdir(parents=True, exist_ok=True)
            with staging(self._folder) as staged:
                for name in changed:
                    (staged / name).parent.mkdir(parents=True, exist_ok=True)
                    self._store.get_file(there[name][0], str(staged / name))
                for name in changed:  # the slow part is done
                    (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(staged / name, self._folder / name)
                    self._copied[name] = there[name][1]
        for name in self._copied.keys() - there.keys():
            (self._folder / name).unlink(missing_ok=True)
            del self._copied[name]


def _version(info: dict[str, Any]) -> str:
    """Return a text that changes when a file is overwritten, from the fields that its kind of store has."""
    return repr([info.get(name) for name in VERSION_FIELDS])
