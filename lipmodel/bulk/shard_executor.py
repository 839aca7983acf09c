"""Evaluations and audits by several processes: shards of the rows on an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lipmodel.bulk.engines import ENGINES
from lipmodel.bulk.sources import Source
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.shards import Found, Look
from lipmodel.errors import DataError, InputError
from lipmodel.network.reader.read import OnnxFile
from lipmodel.progress import Progress, silent


@dataclass(frozen=True)
class Looking:
    """The work of looking at shards.

    Attributes:
        model: the file, as read.
        source: of the rows; None of random points alone.
        look: what is done with them.
    """

    model: OnnxFile
    source: Source | None
    look: Look[Any]

    def begin(self) -> Callable[[range], Any]:
        """In a process of its own, with a model of its own."""
        predictor, data = CertifiedPredictor(self.model), self.source.open() if self.source else None

        def do(rows: range) -> Any:
            try:
                return self.look(predictor, data, rows, silent)
            except InputError as error:  # whose message would not survive the way back
                raise DataError(f"{data.name}: {error}" if data else str(error)) from error

        return do


@dataclass(frozen=True)
class Lookers:
    """Has shards looked at on an engine; a :class:`~lipmodel.data.shards.Spread`.

    Attributes:
        model: the file, as read.
        source: of the rows; None of random points alone.
        engine: "local" or "ray".
    """

    model: OnnxFile
    source: Source | None
    engine: str

    def __call__(self, look: Look[Found], shards: Sequence[range], progress: Progress) -> Iterator[Found]:
        """What is seen of each shard, in order.

        Raises:
            DataError: rows cannot be read or do not fit the model, or a process was killed.
            MissingExtraError: Ray is not installed.
        """
        rows, done, due = sum(map(len, shards)), 0, 0
        waiting: dict[int, Found] = {}
        for number, seen in ENGINES[self.engine](Looking(self.model, self.source, look), shards):
            waiting[number] = seen
            done += len(shards[number])
            progress(done / rows)
            while due in waiting:
                yield waiting.pop(due)
                due += 1
