"""Samples beside a model are shown; whatever is in their place never keeps a model from being served."""

import io
import os

import numpy as np
import pytest

from service.problems import ProblemKind
from tests.service.conftest import eventually, running, two_moons
from tests.service.test_bad_input import check

X, Y = np.float32([[0.1, 0.2], [1.5, -0.3]]), np.array([0, 1])
SAMPLES = "/v1/models/m/samples"


def npz(**arrays):
    with io.BytesIO() as file:
        np.savez_compressed(file, **arrays)
        return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.onnx").write_bytes(two_moons())
    return tmp_path / "models"


@pytest.mark.parametrize("place", ["m.samples.npz", "m/samples.npz"])
def test_samples_are_shown_of_every_version(folder, place):
    (folder / "m" / "2").mkdir(parents=True)
    (folder / "m" / "2" / "model.onnx").write_bytes(two_moons())
    (folder / place).write_bytes(npz(inputs=X, labels=Y))
    with running(folder) as client:
        for path in (SAMPLES, "/v1/models/m/versions/1/samples"):
            told = client.get(path).json()
            assert np.float32(told["inputs"]).tolist() == X.tolist()
            assert told["labels"] == Y.tolist()
            assert told["model"]["name"] == "m"
        assert client.get("/v1/models/m").json()["samples"] == 2


def test_images_are_shown_flat(folder):
    (folder / "m.samples.npz").write_bytes(npz(inputs=X.reshape(2, 1, 2), labels=Y))
    with running(folder) as client:
        assert np.float32(client.get(SAMPLES).json()["inputs"]).tolist() == X.tolist()


def test_without_there_are_none(client):
    check(
        client.get("/v1/models/two-moons/samples"),
        ProblemKind.NO_SAMPLES,
        reason="model 'two-moons' has no samples",
    )
    assert client.get("/v1/models/two-moons").json()["samples"] == 0


BAD = {
    "text": (b"hello", "samples cannot be read"),
    "empty": (b"", "samples cannot be read"),
    "cut short": (npz(inputs=X, labels=Y)[:-40], "samples cannot be read"),
    "no labels": (npz(inputs=X), "labels"),
    "too few labels": (npz(inputs=X, labels=Y[:1]), "inputs [2, 2] and labels [1]"),
    "flat": (npz(inputs=X[0], labels=Y), "inputs [2] and labels [2]"),
    "no rows": (npz(inputs=X[:0], labels=Y[:0]), "0 rows"),
    "too many rows": (npz(inputs=np.zeros((2001, 2)), labels=np.zeros(2001, int)), "2001 rows"),
    "nan": (npz(inputs=np.float32([[np.nan, 0]]), labels=[0]), "not finite"),
    "beyond float32": (npz(inputs=[[1e39, 0.0]], labels=[0]), "not finite within float32"),
    "negative labels": (npz(inputs=X, labels=[-1, 0]), "class indices"),
    "fractions": (npz(inputs=X, labels=[0.5, 0.0]), "class indices"),
    "words": (npz(inputs=X, labels=np.array(["a", "b"])), "only numbers are accepted"),
    "objects": (npz(inputs=np.array([[{}, 1]], dtype=object), labels=[0]), "only numbers are accepted"),
    "bomb": (npz(inputs=np.zeros((2000, 2000)), labels=np.zeros(2000, int)), "too large once decompressed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_samples_are_reported_and_the_model_is_served(folder, case):
    content, reason = BAD[case]
    (folder / "m.samples.npz").write_bytes(content)
    with running(folder) as client:
        told = client.get("/v1/models/m").json()
        assert told["status"] == "served"
        assert told["samples"] == 0
        assert reason in told["fault"]
        check(client.get(SAMPLES), ProblemKind.NO_SAMPLES)
        assert client.post("/v1/models/m/predict", json={"inputs": [[1, 2]]}).status_code == 200


@pytest.mark.parametrize("case", ["another size", "more classes"])
def test_samples_of_another_model_are_not_shown(folder, case):
    inputs, labels = (np.zeros((2, 3)), Y) if case == "another size" else (X, np.array([0, 2]))
    (folder / "m.samples.npz").write_bytes(npz(inputs=inputs, labels=labels))
    with running(folder) as client:
        check(client.get(SAMPLES), ProblemKind.NO_SAMPLES, reason="that fit it")


def test_a_link_out_of_the_folder_is_not_followed(folder):
    (folder.parent / "secret.npz").write_bytes(npz(inputs=X, labels=Y))
    os.symlink("../secret.npz", folder / "m.samples.npz")
    with running(folder) as client:
        check(client.get(SAMPLES), ProblemKind.NO_SAMPLES)
        assert "outside the models folder" in client.get("/v1/models/m").json()["fault"]


def test_samples_are_reloaded_and_removed_with_the_model(folder):
    with running(folder, poll_seconds=0.02, uploads=True) as client:
        (folder / ".beside").write_bytes(npz(inputs=X, labels=Y))
        (folder / ".beside").rename(folder / "m.samples.npz")
        assert eventually(lambda: client.get(SAMPLES).status_code == 200)
        (folder / "m.samples.npz").unlink()
        assert eventually(lambda: client.get(SAMPLES).status_code == 404)
        (folder / "m.samples.npz").write_bytes(npz(inputs=X, labels=Y))
        assert eventually(lambda: client.get(SAMPLES).status_code == 200)
        assert client.delete("/v1/models/m").status_code == 204
        assert not (folder / "m.samples.npz").exists()
