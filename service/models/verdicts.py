"""Verdicts of the isolated checker on model files, kept by digest so that each file is checked once."""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict, dataclass

import numpy as np
import onnx
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError

from lipmodel import __version__
from lipmodel.network.session import RUNTIME_VERSION
from service.database.connect import StoreError, open_database, transaction
from service.database.tables import verdicts
from service.jobs.state_folder import database_in
from service.settings import Settings

MAX_KEPT = 10_000
"""Verdicts in the database; the oldest are deleted."""
MAX_RECENT = 1000
"""Verdicts in memory, which also stand while the database cannot be written; and those to be written then."""
READER = f"{__version__} onnx-{onnx.__version__} onnxruntime-{RUNTIME_VERSION} numpy-{np.__version__}"
"""Identity of the reader: a verdict of another one does not count."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """Result of one check.

    Attributes:
        reason: why the file is refused; None where it is accepted.
        locations: names of the weight files beside it: the verdict proper is then that of the digest
            which includes them.
        seconds, max_bytes: limits that the check ran into; None where it came to its end.
    """

    reason: str | None = None
    locations: tuple[str, ...] = ()
    seconds: float | None = None
    max_bytes: int | None = None

    @property
    def ran_out(self) -> bool:
        """Whether a limit is the reason, which may be another one next time."""
        return self.seconds is not None or self.max_bytes is not None


class Verdicts:
    """The verdicts in a database, shared by all processes and servers that use it.

    Args:
        url: of SQLAlchemy: ``sqlite:///file`` or ``postgresql+psycopg://…``.

    Attributes:
        recent: the last verdicts that were read or written, by digest.

    Raises:
        StoreError: the database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_database(url)
        self.recent: OrderedDict[str, Verdict] = OrderedDict()
        self._unwritten: OrderedDict[str, Verdict] = OrderedDict()

    @classmethod
    def beside_jobs(cls, settings: Settings) -> Verdicts:
        """Open the verdicts of a service with those settings, whose state folder exists.

        Raises:
            StoreError: the database cannot be opened.
        """
        return cls(settings.database or database_in(settings.state_folder))

    def get(self, digest: str) -> Verdict | None:
        """Return the verdict on a digest; None where there is none, or the database does not answer."""
        if (found := self.recent.get(digest)) is not None:
            return found
        mine = (verdicts.c.digest == digest) & (verdicts.c.reader == READER)
        try:
            with transaction(self._engine) as connection:
                content = connection.execute(select(verdicts.c.content).where(mine)).scalar()
        except StoreError as error:
            log.warning("verdicts on model files cannot be read: %s", error)
            return None
        if content is None:
            return None
        kept = json.loads(content)
        return self._remember(digest, Verdict(**{**kept, "locations": tuple(kept["locations"])}))

    def put(self, digest: str, verdict: Verdict) -> None:
        """Keep a verdict; where the database cannot be written, in memory alone until :meth:`write` can."""
        self._remember(digest, verdict)
        self._unwritten[digest] = verdict
        if len(self._unwritten) > MAX_RECENT:
            self._unwritten.popitem(last=False)
        try:
            self.write()
        except StoreError as error:
            log.warning("a verdict on a model file is not kept beyond this process yet: %s", error)

    def write(self) -> None:
        """Write the verdicts that are in memory alone, which other processes wait for.

        Raises:
            StoreError: the database cannot be written.
        """
        newest = select(verdicts.c.created).order_by(verdicts.c.created.desc()).offset(MAX_KEPT).limit(1)
        for digest, verdict in tuple(self._unwritten.items()):
            row = {
                "digest": digest,
                "reader": READER,
                "content": json.dumps(asdict(verdict)),
                "created": time.time(),
            }
            self._delete(digest)
            with (
                suppress(IntegrityError),
                transaction(self._engine) as connection,
            ):  # another process was first
                connection.execute(insert(verdicts).values(row))
                connection.execute(delete(verdicts).where(verdicts.c.created <= newest.scalar_subquery()))
            self._unwritten.pop(digest, None)

    def forget(self, digest: str) -> None:
        """Delete a verdict, so that the file is checked again."""
        self.recent.pop(digest, None)
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
            mine = (verdicts.c.digest == digest) & (verdicts.c.reader == READER)
            connection.execute(delete(verdicts).where(mine))

    def _remember(self, digest: str, verdict: Verdict) -> Verdict:
        self.recent[digest] = verdict
        if len(self.recent) > MAX_RECENT:
            self.recent.popitem(last=False)
        return verdict
