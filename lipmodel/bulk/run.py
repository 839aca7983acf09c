"""All rows of many files certified: what is left to do, an engine that does it, and an account of it."""

from __future__ import annotations

from dataclasses import dataclass

from lipmodel.bulk.certifier import Certification
from lipmodel.bulk.engines import ENGINES
from lipmodel.bulk.partitions import find_partitions
from lipmodel.bulk.results import Results, Terms
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Norm
from lipmodel.progress import Progress, silent


@dataclass(frozen=True)
class Account:
    """What came of it.

    Attributes:
        sha256: digest of the model's file.
        norm: of the radii.
        rows: how many rows have results now, one each.
        partitions: in how many files.
        found: of these rows, how many had theirs before.
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
) -> Account:
    """Certifies each row of files that may be larger than memory; what an earlier run has done stays.

    Args:
        predictor: the classifier.
        source: path, pattern or URL of ``.npy`` or ``.parquet`` files.
        folder: path or URL for the results: for each partition a parquet file, for each row a row.
        norm: of the radii; the predictor's own by default.
        progress: told the share of rows that have results.
        tighten: prove larger radii, slowly; see ``CertifiedPredictor.predict``.
        engine: "local" or "ray".

    Raises:
        DataError: files, or rows of them, cannot be read or do not fit the model; the folder holds something
            else, or cannot be written. What is done stays.
        MissingExtraError: fsspec, pyarrow or Ray is not installed.
    """
    partitions = find_partitions(source)
    terms = Terms(predictor.file.sha256, (norm or predictor.default_norm).value, tighten)
    results = Results(folder, terms)
    left = results.missing(partitions)
    rows = sum(partition.rows for partition in partitions)
    done = found = rows - sum(partition.rows for partition in left)
    progress(done / rows)
    if left:
        for index, _ in ENGINES[engine](Certification(predictor.file, terms, folder), left):
            done += left[index].rows
            progress(done / rows)
    results.sweep()
    return Account(terms.sha256, terms.norm, rows, len(partitions), found)
