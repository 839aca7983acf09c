"""Run evaluations and audits in several processes: shards of the rows on an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lipmodel.bulk.engines import ENGINES
from lipmodel.bulk.sources import Source
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.shards import Result, ShardTask
from lipmodel.errors import DataError, InputError
from lipmodel.network.reader.read import OnnxFile
from lipmodel.progress import Progress, silent


@dataclass(frozen=True)
class ShardWorkload:
    """A task to run on shards, with the model and the source of rows: None where all points are random."""

    model: OnnxFile
    source: Source | None
    task: ShardTask[Any]

    def prepare(self) -> Callable[[range], Any]:
        """Return a function that runs the task on one shard, with a model of this process."""
        predictor, data = CertifiedPredictor(self.model), self.source.open() if self.source else None

        def run(rows: range) -> Any:
            try:
                return self.task(predictor, data, rows, silent)
            except InputError as error:  # an InputError loses its message when pickled
                raise DataError(f"{data.name}: {error}" if data else str(error)) from error

        return run


@dataclass(frozen=True)
class EngineExecutor:
    """A :class:`~lipmodel.data.shards.ShardExecutor` on an engine: "local" or "ray"."""

    model: OnnxFile
    source: Source | None
    engine: str

    def __call__(
        self, task: ShardTask[Result], shards: Sequence[range], progress: Progress
    ) -> Iterator[Result]:
        """Yield the result of each shard, in order.

        Raises:
            DataError: rows cannot be read or do not fit the model, or a process was killed.
            MissingExtraError: Ray is not installed.
        """
        rows, done, due = sum(map(len, shards)), 0, 0
        waiting: dict[int, Result] = {}
        for number, result in ENGINES[self.engine](ShardWorkload(self.model, self.source, task), shards):
            waiting[number] = result
            done += len(shards[number])
            progress(done / rows)
            while due in waiting:
                yield waiting.pop(due)
                due += 1
