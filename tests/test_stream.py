"""Data read by batches equal data read whole, bit for bit, with one batch in memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lipmodel.audit.report import audit
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.load import load_labelled
from lipmodel.data.stream import open_stream
from lipmodel.errors import DataError
from lipmodel.evaluate import evaluate
from tests.networks import groupsort_net, to_file

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2300, 4)), RNG.integers(0, 3, size=2300)


def write_idx(folder, images, labels):
    for name, values in (("t10k-images-idx3-ubyte", images), ("t10k-labels-idx1-ubyte", labels)):
        head = (0x800 + values.ndim).to_bytes(4, "big") + np.asarray(values.shape, ">i4").tobytes()
        (folder / name).write_bytes(head + values.astype(np.uint8).tobytes())


def write_parquet(path, group):
    table = pytest.importorskip("pyarrow").table({f"x{k}": X[:, k] for k in range(4)} | {"y": Y})
    pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=group)


@pytest.mark.parametrize("kind", ["npy", "parquet", "idx"])
def test_a_stream_gives_what_memory_gives_bit_for_bit(kind, tmp_path):
    labels = None
    if kind == "npy":
        source, labels, whole = tmp_path / "x.npy", tmp_path / "y.npy", tmp_path / "all.npz"
        np.save(source, X)
        np.save(labels, Y)
        np.savez(whole, inputs=X, labels=Y)
    elif kind == "parquet":
        source = whole = tmp_path / "all.parquet"
        write_parquet(source, 700)
    else:
        source = whole = tmp_path
        write_idx(tmp_path, RNG.integers(0, 256, size=(2300, 2, 2)), Y)
    data, stream = load_labelled(whole), open_stream(str(source), None, labels)
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 8), 3)))
    read = list(stream.batches(1000))
    assert [len(rows) for rows, _ in read] == [1000, 1000, 300]
    assert stream.rows == 2300
    mine = evaluate(predictor, stream, epsilons=[0.1])
    theirs = evaluate(predictor, data.inputs, data.labels, epsilons=[0.1])
    assert mine.to_dict() == theirs.to_dict()
    assert (mine.radii == theirs.radii).all()
    options = {"samples": 40, "attacked": 10}
    assert audit(predictor, inputs=stream, **options) == audit(predictor, inputs=data.inputs, **options)


def test_whatever_else_is_read_whole(tmp_path):
    np.savez(tmp_path / "all.npz", inputs=X, labels=Y)
    ((rows, labels),) = open_stream(str(tmp_path / "all.npz")).batches(5000)
    assert (rows == X.astype(np.float32)).all()
    assert (labels == Y).all()


def test_memory_does_not_grow_with_the_data(tmp_path):
    """50 MB of inputs are evaluated with less than 20 MB at a time."""
    rows, size = 60_000, 200
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, size))
    mapped[::5000] = 1.0
    np.save(tmp_path / "y.npy", np.zeros(rows, dtype=np.int8))
    predictor = CertifiedPredictor(to_file(groupsort_net((size, 2), 2)))
    predictor.prepare(predictor.default_norm)
    stream = open_stream(str(tmp_path / "x.npy"), None, tmp_path / "y.npy")
    tracemalloc.start()
    result = evaluate(predictor, stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.samples == rows
    assert peak < 20e6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: np.save(p / "x.npy", np.array(["a"])), "only numbers"),
        (lambda p: np.save(p / "x.npy", np.zeros(3)), r"has shape \[3\].*reshape a single input"),
        (lambda p: np.save(p / "x.npy", np.float64(3)), r"has shape \[\]"),
        (lambda p: (p / "x.npy").write_bytes(b"\x93NUMPY"), "cannot be read"),
        (lambda p: (p / "x.npy").write_bytes(b""), "cannot be read"),
        (lambda p: None, "not found; expected a .npy file"),
    ],
)
def test_bad_files_are_refused_in_one_line(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        open_stream(str(tmp_path / "x.npy"))
    assert "\n" not in str(caught.value)


def test_labels_that_do_not_belong_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y + 0.5)
    with pytest.raises(DataError, match="labels must be class indices"):
        open_stream(str(tmp_path / "x.npy"), None, tmp_path / "y.npy")
    np.savez(tmp_path / "all.npz", inputs=X, labels=Y)
    with pytest.raises(DataError, match="contains its labels"):
        open_stream(str(tmp_path / "all.npz"), None, tmp_path / "y.npy")
