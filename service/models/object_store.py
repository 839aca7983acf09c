"""The models of an object store, copied into the models folder: what changed comes into place together."""

from __future__ import annotations

import logging
import os
import posixpath
import time
from pathlib import Path
from typing import Any

from lipmodel.errors import LipcertError, MissingExtraError
from service.models.writer import staging

log = logging.getLogger(__name__)


class MirrorError(LipcertError):
    """The store cannot be opened."""


class Mirror:
    """A folder kept like one of an object store; what others put into the folder stays as it is.

    Args:
        url: of the store's folder, as fsspec takes it: ``s3://bucket/models``, ``gs://…``, ``file://…``.
        folder: the models folder; made where there is none.
        seconds: between looks at the store.

    Attributes:
        fault: why the last look came to nothing, or None.

    Raises:
        MirrorError: there is no such kind of store, or what speaks to it is not installed.
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
        self._have: dict[str, str] = {}
        self._looked = float("-inf")
        self.fault: str | None = None

    def look(self) -> None:
        """Takes over what has changed in the store, if it is time; a fault is kept and logged, once."""
        if time.monotonic() - self._looked < self._seconds:
            return
        try:
            self._copy()
            self.fault = None
        except (
            Exception
        ) as error:  # stores of different kinds raise different ones; the next look may be better
            fault = f"the models could not be copied from their store: {type(error).__name__}: {error}"
            if fault != self.fault:
                log.warning("%s", fault)
            self.fault = fault
        self._looked = time.monotonic()

    def _copy(self) -> None:
        self._store.invalidate_cache()
        found = self._store.find(self._root, detail=True)
        if not found:  # which is also how a store tells of a folder that it has not, or not now
            raise MirrorError("there is nothing there")
        there = {posixpath.relpath(path, self._root): (path, self._key(told)) for path, told in found.items()}
        for name in there:
            if name.startswith("../") or posixpath.isabs(name):
                raise MirrorError(f"'{name}' would lie outside of the models folder")
        changed = [name for name, (_, key) in there.items() if self._have.get(name) != key]
        if changed:
            self._folder.mkdir(parents=True, exist_ok=True)
            with staging(self._folder) as staged:
                for name in changed:
                    (staged / name).parent.mkdir(parents=True, exist_ok=True)
                    self._store.get_file(there[name][0], str(staged / name))
                for name in changed:  # what takes long is done
                    (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(staged / name, self._folder / name)
                    self._have[name] = there[name][1]
        for name in self._have.keys() - there.keys():
            (self._folder / name).unlink(missing_ok=True)
            del self._have[name]

    @staticmethod
    def _key(told: dict[str, Any]) -> str:
        """What tells a file from the one written over it: whatever of these its kind of store knows."""
        names = (
            "size",
            "ETag",
            "etag",
            "md5Hash",
            "generation",
            "LastModified",
            "last_modified",
            "mtime",
            "created",
        )
        return repr([told.get(name) for name in names])
