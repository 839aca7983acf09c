"""Files of rows, a model, and its results in process."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.evaluate import BATCH_ROWS
from lipmodel.norms import Norm
from tests.networks import groupsort_net, to_file

SIZE, GROUP_ROWS = 4, 1700
ROWS = {"a.parquet": 5000, "sub/b.parquet": 800, "sub/c.parquet": 1700}


@pytest.fixture(scope="session")
def predictor():
    return CertifiedPredictor(to_file(groupsort_net((SIZE, 16, 16), 3)))


@pytest.fixture
def data(tmp_path):
    """A folder of parquet files in groups of 1,700 rows, each file with a column of float32."""
    rng = np.random.default_rng(0)
    for name, rows in ROWS.items():
        columns = {f"x{k}": rng.normal(size=rows) for k in range(SIZE)}
        columns["x1"] = columns["x1"].astype(np.float32)
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, row_group_size=GROUP_ROWS)
    return tmp_path / "data"


def read_rows(path):
    return np.column_stack([column.to_numpy() for column in pq.read_table(path).columns])


def check_results(predictor, rows, results, name, *, group=GROUP_ROWS, norm=Norm.TWO):
    """Whether a file's results are one for each of its rows, in order and bit for bit those of the predictor."""
    assert results["file"].to_pylist() == [name] * len(rows)
    assert results["row"].to_pylist() == list(range(len(rows)))
    starts = [
        (start, min(start + BATCH_ROWS, first + group, len(rows)))
        for first in range(0, len(rows), group)
        for start in range(first, min(first + group, len(rows)), BATCH_ROWS)
    ]
    for start, end in starts:
        found, part = predictor.predict(rows[start:end], norm), results.slice(start, end - start)
        names = np.array(predictor.class_names)
        for column, value in {
            "label": names[found.radii.label],
            "label_index": found.radii.label,
            "certified_radius": found.radii.certified_radius,
            "margin": found.radii.margin,
            "runner_up": names[found.radii.runner_up],
            "scores": found.scores,
        }.items():
            assert part[column].to_pylist() == value.tolist()
