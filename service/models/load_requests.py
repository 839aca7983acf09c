"""The last load or unload request of each model, in a file that all processes of a service share."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lipmodel.files import write_whole
from service.database.connect import writing
from service.models.writer import exclusive

MAX_KEPT = 10_000
"""Models whose last request is stored; the oldest requests are dropped."""

log = logging.getLogger(__name__)


class LoadRequest(NamedTuple):
    """The last load or unload of one model.

    Attributes:
        id: unique to the request.
        unloaded: digest of the model's files, which are not served while it stays the same; None after a
            load.
    """

    id: str
    unloaded: str | None


class LoadRequests:
    """The last request of each model, in a file that the service's processes share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: Mapping[str, LoadRequest] = {}
        self._failing = False

    def read(self) -> Mapping[str, LoadRequest]:
        """Return the last request of any process, by model; the last known ones if the file is unusable."""
        try:
            stored = json.loads(self._path.read_bytes())
            self._known = {name: LoadRequest(*request) for name, request in stored.items()}
            self._failing = False
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            if not self._failing:
                log.error("loads and unloads of other processes cannot be read: %s: %s", self._path, error)
            self._failing = True
        return self._known

    def add(self, name: str, unloaded: str | None) -> None:
        """Store a request as the newest of a model, see :class:`LoadRequest`.

        Raises:
            StorageError: the file cannot be written.
        """
        request = LoadRequest(uuid.uuid4().hex, unloaded)
        with writing("the file of loads and unloads"), exclusive(self._path.parent):
            others = [item for item in self.read().items() if item[0] != name]
            stored = dict([*others, (name, request)][-MAX_KEPT:])
            write_whole(self._path, json.dumps(stored).encode())
