"""CIFAR-10 in both published forms, on small files written from the formats' descriptions."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from lipmodel.data import load as data
from lipmodel.data.cifar import CLASSES, cifar10
from lipmodel.errors import DataError
from lipmodel.training.train import carry_out, plan

NAMES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def batch(seed, rows=10):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, size=(rows, 3072), dtype=np.uint8), np.arange(rows) % 10


def write_binary(folder):
    for seed, name in enumerate(NAMES):
        pixels, labels = batch(seed)
        content = b"".join(bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True))
        (folder / f"{name}.bin").write_bytes(content)


def as_python_2_wrote_it(pixels, labels):
    """Protocol 2, strings of bytes, and the array rebuilt by numpy.core, as in the published files."""
    content = pickle.dumps(
        {"data": pixels, "labels": labels.tolist(), "batch_label": "testing batch", "filenames": ["a.png"]},
        protocol=2,
    )
    return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def write_pickled(folder):
    for seed, name in enumerate(NAMES):
        (folder / name).write_bytes(as_python_2_wrote_it(*batch(seed)))


@pytest.mark.parametrize("write", [write_binary, write_pickled])
@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin", "cifar-10-batches-py"])
def test_both_forms_are_read(tmp_path, write, inside):
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    write(folder)
    train, test = cifar10(tmp_path)
    assert (len(train.labels), len(test.labels)) == (50, 10)
    assert (train.classes, train.input_shape) == (CLASSES, (3, 32, 32))
    pixels, labels = batch(5)
    assert np.array_equal(test.inputs, pixels.astype(np.float32) / np.float32(255))
    assert test.labels.tolist() == labels.tolist()
    assert np.array_equal(train.inputs[20:30] * 255, batch(2)[0].astype(np.float32))
    for read in (data.load_own(tmp_path)[0], data.load_parts("cifar-10", tmp_path)[0]):
        assert read.digest == train.digest
    assert data.load_labelled(tmp_path).digest == test.digest


class RunsACommand:
    def __reduce__(self):
        return os.system, ("touch ran",)


def nested_in_an_object_array():
    return {"data": np.array([RunsACommand()], dtype=object), "labels": [0]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(RunsACommand()), "posix.system is not allowed"),
        (pickle.dumps({"data": RunsACommand(), "labels": [1]}), "posix.system"),
        (pickle.dumps(nested_in_an_object_array()), "posix.system"),
        (pickle.dumps(np.float64), "numpy.float64 is not allowed"),
        (b"cnumpy._core.multiarray\nfrombuffer\n.", "frombuffer is not allowed"),
        (pickle.dumps({"labels": [1]}), "'data'"),
        (pickle.dumps([1, 2]), "cannot be read as a batch"),
        (pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 1]}), "float64"),
        (as_python_2_wrote_it(batch(0)[0][:9], batch(0)[1]), r"\[9, 3072\]"),
        (as_python_2_wrote_it(batch(0)[0], batch(0)[1] - 1), "cannot be read"),
        (as_python_2_wrote_it(batch(0)[0], batch(0)[1] + 1), "label 10 is out of range"),
        (as_python_2_wrote_it(*batch(0))[:-200], "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_pickles_that_are_no_batch_are_refused_and_run_nothing(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    write_pickled(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        cifar10(tmp_path)
    assert "data_batch_3" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_the_hostile_pickles_would_run_something(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(RunsACommand()))
    assert (tmp_path / "ran").exists()


def test_binary_files_that_are_no_batch_are_refused(tmp_path):
    write_binary(tmp_path)
    path = tmp_path / "test_batch.bin"
    whole = path.read_bytes()
    for content, message in (
        (whole[:-1], "30729 bytes, which is not a multiple of 3073"),
        (b"", "0 bytes"),
        (b"\x0a" + whole[1:], "label 10 is out of range; labels must be 0 to 9"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            cifar10(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"neither test_batch.bin nor test_batch"):
        cifar10(tmp_path)
    with pytest.raises(DataError, match=r"does not hold CIFAR-10.*nothing is downloaded"):
        cifar10(tmp_path / "gone")


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_the_recipe_trains_on_a_small_folder(tmp_path, norm):
    write_binary(tmp_path)
    widths = [4, 6, 8, 8] if norm == "2" else [8]
    settings = {"network.widths": widths, "training.batch_size": 25}
    overrides = {"norm": norm, "epochs": 1, "settings": settings}
    trained = carry_out(plan("cifar-10", overrides=overrides, data_dir=tmp_path), tmp_path / "out")
    assert trained.predictor.file.graph.input_size == 3072
    assert trained.predictor.claim_proved
    assert trained.evaluation.samples == 10
