"""Which models were asked to be loaded or unloaded last, kept where every process of a service reads it."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lipmodel.files import write_whole
from service.database.connect import writing
from service.models.writer import alone

MAX_KEPT = 10_000
"""Models whose last request is remembered; the oldest requests are forgotten first."""

log = logging.getLogger(__name__)


class LoadRequest(NamedTuple):
    """The last load or unload of one model.

    Attributes:
        id: differs from one request to the next.
        unloaded: fingerprint of the files that are not to be served; None after a load.
    """

    id: str
    unloaded: str | None


class LoadRequests:
    """The last request of each model, by name.

    Args:
        path: file in a folder that the service's processes share; None keeps them in this process alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: Mapping[str, LoadRequest] = {}
        self._failing = False

    def read(self) -> Mapping[str, LoadRequest]:
        """Return the requests as any process made them last; as known before where the file is unusable."""
        if self._path is None:
            return self._known
        try:
            kept = json.loads(self._path.read_bytes())
            self._known = {name: LoadRequest(*request) for name, request in kept.items()}
            self._failing = False
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            if not self._failing:
                log.error("loads and unloads by other processes are not followed: %s: %s", self._path, error)
            self._failing = True
        return self._known

    def add(self, name: str, unloaded: str | None) -> None:
        """Keep a request, after which the others are older.

        Raises:
            StorageError: the file cannot be written.
        """
        request = LoadRequest(uuid.uuid4().hex, unloaded)
        if self._path is None:
            self._known = {**self._known, name: request}
            return
        with writing("the last loads and unloads"), alone(self._path.parent):
            others = [item for item in self.read().items() if item[0] != name]
            kept = dict([*others, (name, request)][-MAX_KEPT:])
            write_whole(self._path, json.dumps(kept).encode())
