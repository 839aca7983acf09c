"""Shards: all rows once, from the beginning of a batch on; and streams that are read from there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lipmodel.data.shards import batches_within, cut
from lipmodel.data.stream import in_memory, open_stream
from lipmodel.errors import DataError
from tests.test_stream import X, Y, write_idx, write_parquet


@pytest.mark.parametrize("rows", [1, 99, 100, 101, 1234])
@pytest.mark.parametrize("slow", [0, 1, 100, 250, 5000])
@pytest.mark.parametrize("starts", [[0], [0, 50, 100, 199, 730], range(0, 1234, 7)])
def test_shards_are_runs_of_whole_batches(rows, slow, starts):
    shards = cut(rows, 100, starts, slow)
    assert [row for shard in shards for row in shard] == list(range(rows))
    assert all(shard and shard.start % 100 == 0 for shard in shards)
    assert all(len(shard) <= 100 for shard in shards if shard.start < slow)
    begins = {shard.start for shard in shards}
    assert begins >= {-(-start // 100) * 100 for start in starts if -(-start // 100) * 100 < rows}


def test_no_rows_are_no_shards():
    assert cut(0, 100, [0], 10) == []


@pytest.mark.parametrize("kind", ["npy", "npz", "parquet", "idx"])
def test_a_stream_is_read_from_the_middle(kind, tmp_path):
    source, labels = tmp_path / f"x.{kind}", None
    if kind == "npy":
        labels = tmp_path / "y.npy"
        np.save(source, X)
        np.save(labels, Y)
    elif kind == "npz":
        np.savez(source, inputs=X, labels=Y)
    elif kind == "parquet":
        write_parquet(source, 700)
    else:
        source = tmp_path
        write_idx(tmp_path, np.random.default_rng(0).integers(0, 256, size=(2300, 2, 2)), Y)
    stream = open_stream(str(source), None, labels)
    ((whole, classes),) = stream.batches(2300)
    assert list(stream.starts) == ([0, 700, 1400, 2100] if kind == "parquet" else [0])
    for first in (0, 1, 699, 700, 1500, 2299):
        parts = list(stream.batches(400, first))
        assert [len(rows) for rows, _ in parts[:-1]] == [400] * (len(parts) - 1)
        assert (np.concatenate([rows for rows, _ in parts]) == whole[first:]).all()
        assert (np.concatenate([given for _, given in parts]) == classes[first:]).all()


def test_rows_that_are_gone_are_reported():
    stream = replace(in_memory("data", X, Y), rows=2400)
    assert [first for first, _, _ in batches_within(stream, range(1000, 2000), 500)] == [1000, 1500]
    with pytest.raises(DataError, match="data was modified while it was being read"):
        list(batches_within(stream, range(1000, 2400), 500))
