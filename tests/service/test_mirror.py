"""Models of an object store, copied into the folder that is served."""

from __future__ import annotations

import os
import time

import fsspec
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from service.components import open_mirror
from service.models.object_store import Mirror, MirrorError
from service.settings import Settings
from tests.networks import groupsort_net, to_file
from tests.service.conftest import eventually, running, two_moons

OTHER = to_file(groupsort_net((2, 8), 2))


@pytest.fixture
def store():
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/", recursive=True)


def test_changes_of_the_store_are_mirrored_in_the_folder(store, tmp_path):
    folder = tmp_path / "models"
    mirror = Mirror("memory://bucket/models", folder, seconds=1e-9)
    store.pipe("/bucket/models/a.onnx", b"1")
    store.pipe("/bucket/models/b/2/model.onnx", b"2")
    mirror.poll()
    (folder / "own.onnx").write_bytes(b"mine")
    assert (folder / "b/2/model.onnx").read_bytes() == b"2"
    before = (folder / "a.onnx").stat().st_ino
    store.pipe("/bucket/models/b/2/model.onnx", b"3")
    mirror.poll()
    assert (folder / "b/2/model.onnx").read_bytes() == b"3"
    assert (folder / "a.onnx").stat().st_ino == before
    store.rm("/bucket/models/a.onnx")
    mirror.poll()
    assert sorted(path.name for path in folder.iterdir()) == ["b", "own.onnx"]
    assert mirror.fault is None


def test_a_store_that_fails_leaves_the_folder_and_is_reported(store, tmp_path, monkeypatch):
    folder = tmp_path / "models"
    mirror = Mirror("memory://bucket/models", folder, seconds=1e-9)
    store.pipe("/bucket/models/a.onnx", b"1")
    store.pipe("/bucket/models/b.onnx", b"1")
    mirror.poll()
    store.pipe("/bucket/models/a.onnx", b"22")
    store.pipe("/bucket/models/b.onnx", b"22")
    whole = type(store).get_file

    def broken(self, path, *arguments, **options):
        if path.endswith("b.onnx"):
            raise ConnectionError("gone")
        return whole(self, path, *arguments, **options)

    monkeypatch.setattr(type(store), "get_file", broken)
    mirror.poll()
    assert "gone" in mirror.fault
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.onnx": b"1", "b.onnx": b"1"}
    monkeypatch.undo()
    mirror.poll()
    assert mirror.fault is None
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes() == b"22"


def test_replicas_report_the_digest_of_their_models(tmp_path):
    place = tmp_path / "store"
    place.mkdir()
    (place / "two-moons.onnx").write_bytes(two_moons())
    options = {"models_url": f"file://{place}", "models_url_seconds": 0.05, "poll_seconds": 0.05}
    with (
        running(tmp_path / "one", **options) as one,
        running(tmp_path / "two", **options) as two,
    ):
        for client in (one, two):
            eventually(lambda client=client: client.get("/readyz").status_code == 200)
        first = one.get("/readyz").json()
        assert first == two.get("/readyz").json()
        assert first["behind"] is None
        (place / "new").write_bytes(OTHER)
        os.replace(place / "new", place / "two-moons.onnx")
        swapped = [eventually(lambda c=c: changed(c, first["digest"])) for c in (one, two)]
        assert swapped[0] == swapped[1]
        shown = one.get("/v1/models/two-moons").json()
        assert shown["sha256"] == CertifiedPredictor(OTHER).file.sha256
        place.rename(tmp_path / "away")
        time.sleep(0.2)
        eventually(lambda: one.get("/readyz").json()["behind"])
        assert one.get("/readyz").json()["digest"] == swapped[0]


def changed(client, digest):
    now = client.get("/readyz").json()["digest"]
    return now if now != digest else None


def test_stores_that_cannot_be_used_are_refused(tmp_path):
    for url, reason in [("nothing://x", "Protocol not known"), ("s3://bucket/models", "s3fs")]:
        with pytest.raises(MirrorError, match=reason):
            open_mirror(Settings(models=tmp_path, models_url=url))
    with pytest.raises(MirrorError, match="models_url and uploads exclude each other"):
        open_mirror(Settings(models=tmp_path, models_url="memory://x", uploads=True))
    assert open_mirror(Settings(models=tmp_path)) is None
