"""Certify all rows of many files on an engine and resume earlier runs; every engine writes the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lipmodel.bulk.engines import ENGINES
from lipmodel.bulk.partitions import Partition, find_partitions, read_batches
from lipmodel.bulk.results import Results, ResultsKey
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import DataError, InputError
from lipmodel.evaluate import BATCH_ROWS, TIGHTENED_ROWS
from lipmodel.network.reader.read import OnnxFile
from lipmodel.norms import Norm
from lipmodel.progress import Progress, silent

ROWS_WRITTEN = 65_536
"""Rows written at once, which bounds the results in memory."""


@dataclass(frozen=True)
class BulkSummary:
    """Summary of a bulk certification.

    Attributes:
        sha256: digest of the model file.
        norm: norm of the radii.
        rows: number of rows with results.
        partitions: number of files of results.
        found: number of these rows whose results an earlier run had written.
    """

    sha256: str
    norm: str
    rows: int
    partitions: int
    found: int


def certify_files(
    predictor: CertifiedPredictor,
    source: str,
    folder: str,
    norm: Norm | None = None,
    progress: Progress = silent,
    *,
    tighten: bool = False,
    engine: str = "local",
) -> BulkSummary:
    """Certify each row of files that may be larger than memory; results of an earlier run are kept.

    Args:
        predictor: the classifier.
        source: path, pattern or URL of ``.npy`` or ``.parquet`` files.
        folder: path or URL for the results: one parquet file per partition, one row per input row.
        norm: norm of the radii; the predictor's default if None.
        progress: callback for the share of rows that have results.
        tighten: prove larger radii, slowly; see ``CertifiedPredictor.predict``.
        engine: "local" or "ray".

    Raises:
        DataError: files or rows cannot be read or do not fit the model; the folder contains other files or
            cannot be written. Results that are already complete are kept.
        MissingExtraError: fsspec, pyarrow or Ray is not installed.
    """
    partitions = find_partitions(source)
    key = ResultsKey(predictor.file.sha256, (norm or predictor.default_norm).value, tighten)
    results = Results(folder, key)
    left = results.missing(partitions)
    rows = sum(partition.rows for partition in partitions)
    done = found = rows - sum(partition.rows for partition in left)
    progress(done / rows)
    if left:
        for index, _ in ENGINES[engine](Certification(predictor.file, key, folder), left):
            done += left[index].rows
            progress(done / rows)
    results.sweep()
    return BulkSummary(key.sha256, key.norm, rows, len(partitions), found)


@dataclass(frozen=True)
class Certification:
    """The workload of certifying partitions, with results in a folder by path or URL."""

    model: OnnxFile
    key: ResultsKey
    folder: str

    def prepare(self) -> Callable[[Partition], int]:
        """Return a function that certifies one partition, with a model of this process.

        The function writes the results, and returns the number of rows. Its DataError reports rows that
        cannot be read or do not fit the model, and results that cannot be written.
        """
        results = Results(self.folder, self.key)
        return partial(self._certify, CertifiedPredictor(self.model), results)

    def _certify(self, predictor: CertifiedPredictor, results: Results, partition: Partition) -> int:
        results.write(partition, self._tables(predictor, partition))
        return partition.rows

    def _tables(self, predictor: CertifiedPredictor, partition: Partition) -> Iterator[Any]:
        import pyarrow as pa

        step = TIGHTENED_ROWS if self.key.tighten else BATCH_ROWS
        waiting, count, done = [], 0, partition.first
        for rows in read_batches(partition, step):
            waiting.append(self._table(predictor, partition, rows, done))
            count, done = count + len(rows), done + len(rows)
            if count >= ROWS_WRITTEN:
                yield pa.concat_tables(waiting)
                waiting, count = [], 0
        if waiting:
            yield pa.concat_tables(waiting)

    def _table(self, predictor: CertifiedPredictor, partition: Partition, rows: Any, first: int) -> Any:
        """Return one row of results per input row."""
        import pyarrow as pa

        try:
            x = predictor.check_inputs(rows, first_row=first)
            found = predictor.predict(x, Norm(self.key.norm), tighten=self.key.tighten)
        except InputError as error:
            raise DataError(f"{partition.url}: {error}") from error
        radii, names = found.radii, pa.array(predictor.class_names)
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
