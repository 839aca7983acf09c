"""Certify all rows of many files on an engine, resuming an earlier run."""

from __future__ import annotations

from dataclasses import dataclass

from lipmodel.bulk.certifier import Certification
from lipmodel.bulk.engines import ENGINES
from lipmodel.bulk.partitions import find_partitions
from lipmodel.bulk.results import Results, ResultsKey
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Norm
from lipmodel.progress import Progress, silent


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
