"""Verdicts of the isolated checker on model files, stored by digest so that each file is checked once."""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict, dataclass

import numpy as np
import onnx
from sqlalchemy import ColumnElement, delete, insert, select
from sqlalchemy.exc import IntegrityError

from lipmodel import __version__
from lipmodel.network.session import RUNTIME_VERSION
from service.database.connect import StoreError, open_database, transaction
from service.database.tables import verdicts

MAX_STORED = 10_000
"""Verdicts in the database; the oldest are deleted."""
MAX_UNWRITTEN = 1000
"""Verdicts that wait in memory while the database cannot be written."""
READER = f"{__version__} onnx-{onnx.__version__} onnxruntime-{RUNTIME_VERSION} numpy-{np.__version__}"
"""Identity of the reader: verdicts of other readers do not count."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """Result of one check.

    Attributes:
        reason: for which the file is refused; None where it is accepted.
        locations: names of the weight files beside it: the verdict proper is then that of the digest
            which includes them.
        seconds, max_bytes: limits that the check ran into; None where it completed.
    """

    reason: str | None = None
    locations: tuple[str, ...] = ()
    seconds: float | None = None
    max_bytes: int | None = None

    @property
    def ran_out(self) -> bool:
        """True if a limit is the reason; another check may then end otherwise."""
        return self.seconds is not None or self.max_bytes is not None


class Verdicts:
    """The verdicts in a database, shared by all processes and servers that use it.

    Raises:
        StoreError: the database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_database(url)
        self._unwritten: OrderedDict[str, Verdict] = OrderedDict()

    def get(self, digest: str) -> Verdict | None:
        """Return the verdict on a digest; None where there is none, or the database does not respond."""
        if (found := self._unwritten.get(digest)) is not None:
            return found
        try:
            with transaction(self._engine) as connection:
                content = connection.execute(select(verdicts.c.content).where(_on(digest))).scalar()
        except StoreError as error:
            log.warning("verdicts on model files cannot be read: %s", error)
            return None
        if content is None:
            return None
        stored = json.loads(content)
        return Verdict(**{**stored, "locations": tuple(stored["locations"])})

    def put(self, digest: str, verdict: Verdict) -> None:
        """Store a verdict; where the database cannot be written, in memory until :meth:`write` succeeds."""
        self._unwritten[digest] = verdict
        if len(self._unwritten) > MAX_UNWRITTEN:
            self._unwritten.popitem(last=False)
        try:
            self.write()
        except StoreError as error:
            log.warning("a verdict on a model file is not stored beyond this process yet: %s", error)

    def write(self) -> None:
        """Write the verdicts that are in memory alone, which other processes wait for.

        Raises:
            StoreError: the database cannot be written.
        """
        newest = select(verdicts.c.created).order_by(verdicts.c.created.desc()).offset(MAX_STORED).limit(1)
        for digest, verdict in tuple(self._unwritten.items()):
            row = {
                "digest": digest,
                "reader": READER,
                "content": json.dumps(asdict(verdict)),
                "created": time.time(),
            }
            self._delete(digest)
            with suppress(IntegrityError), transaction(self._engine) as connection:  # another was first
                connection.execute(insert(verdicts).values(row))
                connection.execute(delete(verdicts).where(verdicts.c.created <= newest.scalar_subquery()))
            self._unwritten.pop(digest, None)

    def forget(self, digest: str) -> None:
        """Delete a verdict, so that the file is checked again."""
        self._unwritten.pop(digest, None)
        try:
            self._delete(digest)
        except StoreError as error:
            log.warning("a verdict on a model file cannot be deleted: %s", error)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _delete(self, digest: str) -> None:
        with transaction(self._engine) as connection:
            connection.execute(delete(verdicts).where(_on(digest)))


def _on(digest: str) -> ColumnElement[bool]:
    """Return the condition of this reader's verdict on a digest."""
    return (verdicts.c.digest == digest) & (verdicts.c.reader == READER)
