"""The service starts whatever the folder holds, serves what is good, and tells what is wrong with the rest."""

import os
from dataclasses import replace

import numpy as np
import onnx
import pytest

from lipmodel.network.reader.read import read_onnx
from lipmodel.network.writer import set_metadata, to_bytes, write_model
from lipmodel.norms import Norm
from service.models.layout import MAX_REASON, printable
from tests.networks import groupsort_net, to_file
from tests.service.conftest import CLAIMS, eventually, models_of, running, two_moons


def model():
    return write_model(groupsort_net((2, 4), 2), np.float32)


def unknown_op():
    proto = model()
    proto.graph.node[0].op_type = "Frobnicate"
    proto.graph.node[0].name = "culprit"
    return to_bytes(proto)


def external_data():
    proto = model()
    tensor = proto.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location="../../secret.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    return to_bytes(proto)


def nan_weight():
    proto = model()
    tensor = proto.graph.initializer[0]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return to_bytes(proto)


def two_inputs():
    proto = model()
    proto.graph.input.append(
        onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, ["batch", 2])
    )
    return to_bytes(proto)


BAD = {
    "truncated": (lambda: two_moons()[:500], "not an ONNX model, or a truncated one"),
    "empty": (lambda: b"", "the file is empty"),
    "text": (lambda: b"hello\n", "not an ONNX model"),
    "unknown-op": (unknown_op, "node 'culprit' (Frobnicate)"),
    "external-data": (external_data, "external"),
    "nan-weight": (nan_weight, "finite"),
    "two-inputs": (two_inputs, "2 inputs ('input', 'other')"),
    "bad name": (two_moons, "the file's name"),
    "-dash": (two_moons, "the file's name"),
    "x" * 65: (two_moons, "the file's name"),
}


def test_good_models_are_served_and_bad_ones_reported(serve):
    client = serve({"good": two_moons(), **{name: content() for name, (content, _) in BAD.items()}})

    def everything():
        found = {m["name"]: m for m in client.get("/v1/models").json()["models"]}
        return found if len(found) > len(BAD) else None

    listed = eventually(everything)  # once the folder has been read
    assert listed.keys() == {"good", *BAD}
    assert listed["good"]["status"] == "served"
    for name, (_, reason) in BAD.items():
        assert listed[name]["status"] == "refused"
        assert reason in listed[name]["reason"]
        assert client.get(f"/v1/models/{name}").json() == listed[name]
    assert (
        client.get("/readyz").json().items() >= {"status": "ready", "served": 1, "refused": len(BAD)}.items()
    )
    answer = client.post("/v1/models/good/predict", json={"inputs": [[1, 2]]})
    assert answer.json()["predictions"][0]["certified_radius"] > 0


@pytest.mark.parametrize(
    ("make", "fault"),
    [(False, "cannot be read: No such file or directory"), (True, "holds no *.onnx file")],
)
def test_a_folder_that_is_missing_or_empty(tmp_path, make, fault):
    folder = tmp_path / "models"
    if make:
        folder.mkdir()
        (folder / "notes.txt").write_text("not a model")
    with running(folder) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        assert fault in client.get("/readyz").json()["detail"]
        body = client.get("/v1/models").json()
        assert body["models"] == []
        assert fault in body["fault"]


def test_a_folder_of_bad_files_alone_is_not_ready_and_says_why(serve):
    answer = serve({"bad": b"x"}).get("/readyz")
    assert answer.status_code == 503
    assert "bad is refused: not an ONNX model" in answer.json()["detail"]


def test_irregular_files_and_links_out_of_the_folder_are_refused(tmp_path):
    folder, elsewhere = tmp_path / "models", tmp_path / "elsewhere.onnx"
    folder.mkdir()
    elsewhere.write_bytes(two_moons())
    (folder / "..data").mkdir()
    (folder / "..data" / "inside.onnx").write_bytes(two_moons())
    (folder / "inside.onnx").symlink_to("..data/inside.onnx")  # as Kubernetes mounts a volume
    (folder / "outside.onnx").symlink_to(elsewhere)
    (folder / "dangling.onnx").symlink_to("nowhere")
    (folder / "loop.onnx").symlink_to("loop.onnx")
    (folder / "folder.onnx").mkdir()
    os.mkfifo(folder / "pipe.onnx")
    registry = models_of(folder).current
    assert list(registry.defaults) == ["inside"]
    assert "outside the models folder" in registry.refused["outside"]
    assert "cannot be read" in registry.refused["dangling"]
    assert registry.refused["folder"] == registry.refused["pipe"] == "it is not a regular file"
    assert registry.refused.keys() == {"outside", "dangling", "loop", "folder", "pipe"}


def test_the_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "m.onnx").write_bytes(two_moons())
    (tmp_path / "link").symlink_to("real")
    assert list(models_of(tmp_path / "link").current.defaults) == ["m"]


def test_an_unforeseen_failure_refuses_one_file_alone(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes(two_moons())
    (tmp_path / "b.onnx").write_bytes(b"boom")

    def fail(source, **options):
        if source.read_bytes() == b"boom":
            raise ZeroDivisionError
        return read_onnx(source, **options)

    monkeypatch.setattr("service.models.reader.read_onnx", fail)
    registry = models_of(tmp_path).current
    assert list(registry.defaults) == ["a"]
    assert "ZeroDivisionError" in registry.refused["b"]


def test_text_of_a_file_can_always_be_written_as_json(serve):
    assert printable("a\udcffb") == "a?b"
    assert len(printable("x" * 10_000)) == MAX_REASON + 1
    proto = model()
    set_metadata(
        proto, {"lipcert.classes": r'["\ud800", "b"]', "lipcert.norm": "7", "lipcert.lipschitz": "nan"}
    )
    detail = serve({"odd": to_bytes(proto)}).get("/v1/models/odd")
    assert detail.status_code == 200
    assert len(detail.json()["ignored_claims"]) == 3


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (to_file(groupsort_net((3, 8), 1), CLAIMS), "its inputs have shape [3], not [2]"),
        (to_file(groupsort_net((2, 8), 1)), "its classes are '0', '1', not 'lower', 'upper'"),
        (to_file(groupsort_net((2, 8), 1), replace(CLAIMS, norm=Norm.INF)), "its norm is inf, not 2"),
        (to_file(groupsort_net((2, 8), 1, seed=5), CLAIMS), ""),
    ],
    ids=["inputs", "classes", "norm", "the same"],
)
def test_a_version_that_would_break_clients_answers_under_its_number_alone(tmp_path, second, told):
    (tmp_path / "m.onnx").write_bytes(two_moons())
    for version, content in (("2", second), ("3", two_moons())):
        (tmp_path / "m" / version).mkdir(parents=True)
        (tmp_path / "m" / version / "model.onnx").write_bytes(content)
    versions = models_of(tmp_path).current.models["m"]
    assert list(versions.served) == ["1", "2", "3"]
    assert versions.latest.version == "3"
    assert told in versions.reason
    assert bool(versions.reason) == bool(told)
    (tmp_path / "m" / "2" / "force").touch()
    forced = models_of(tmp_path).current.models["m"]
    assert forced.latest.version == ("2" if told else "3")  # and now the third would break clients
