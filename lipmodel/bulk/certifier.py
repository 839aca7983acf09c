"""Certify one partition of rows and write its file of results; every engine gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipmodel.bulk.partitions import Partition, read_batches
from lipmodel.bulk.results import Results, ResultsKey
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import DataError, InputError
from lipmodel.evaluate import BATCH_ROWS, TIGHTENED_ROWS
from lipmodel.network.reader.read import OnnxFile
from lipmodel.norms import Norm

ROWS_WRITTEN = 65_536
"""Rows written at once, which bounds the results in memory."""


@dataclass(frozen=True)
class Certification:
    """The workload of certifying partitions.

    Attributes:
        model: the parsed model file.
        key: the model and settings that the results belong to.
        folder: path or URL of the folder of results.
    """

    model: OnnxFile
    key: ResultsKey
    folder: str

    def prepare(self) -> Certifier:
        """Return a certifier with a model of this process."""
        return Certifier(CertifiedPredictor(self.model), Results(self.folder, self.key), self.key)


class Certifier:
    """A function that certifies one partition."""

    def __init__(self, predictor: CertifiedPredictor, results: Results, key: ResultsKey) -> None:
        self._predictor, self._results, self._key = predictor, results, key

    def __call__(self, partition: Partition) -> int:
        """Write the results of a partition, and return its number of rows.

        Raises:
            DataError: rows cannot be read, do not fit the model, or results cannot be written.
        """
        self._results.write(partition, self._tables(partition))
        return partition.rows

    def _tables(self, partition: Partition) -> Iterator[Any]:
        import pyarrow as pa

        step = TIGHTENED_ROWS if self._key.tighten else BATCH_ROWS
        waiting, count, done = [], 0, partition.first
        for rows in read_batches(partition, step):
            waiting.append(self._table(partition, rows, done))
            count, done = count + len(rows), done + len(rows)
            if count >= ROWS_WRITTEN:
                yield pa.concat_tables(waiting)
                waiting, count = [], 0
        if waiting:
            yield pa.concat_tables(waiting)

    def _table(self, partition: Partition, rows: Any, first: int) -> Any:
        """Return one row of results per input row."""
        import pyarrow as pa

        try:
            found = self._predictor.predict(
                self._predictor.check_inputs(rows, first_row=first),
                Norm(self._key.norm),
                tighten=self._key.tighten,
            )
        except InputError as error:
            raise DataError(f"{partition.url}: {error}") from error
        radii, names = found.radii, pa.array(self._predictor.class_names)
        file = pa.DictionaryArray.from_arrays(np.zeros(len(rows), np.int32), pa.array([partition.file]))
        columns = {
            "file": file,
            "row": np.arange(first, first + len(rows)),
            "label": pa.DictionaryArray.from_arrays(radii.label.astype(np.int32), names),
            "label_index": radii.label.astype(np.int32),
            "certified_radius": radii.certified_radius,
            "margin": radii.margin,
            "runner_up": pa.DictionaryArray.from_arrays(radii.runner_up.astype(np.int32), names),
            "scores": pa.FixedSizeListArray.from_arrays(found.scores.reshape(-1), found.scores.shape[1]),
        }
        if found.tightening is not None:
            columns["method"] = pa.array(map(str, found.tightening.method))
        return pa.table(columns)
