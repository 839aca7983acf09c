"""Accuracy on labelled data over HTTP: rows, files in forms, files of the data folder; and hostile ones."""

import gzip
import io
import json
import os
import signal
import struct
import sys
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError
from lipmodel.evaluate import evaluate
from lipmodel.norms import Norm
from service.api.schemas.evaluations import EvaluationResult
from service.problems import ProblemKind
from service.sandbox import data_folder
from service.sandbox.data_folder import pin
from tests.networks import groupsort_net, to_file
from tests.service.conftest import eventually, running, stopped_worker, two_moons
from tests.service.test_bad_input import check

EVALUATIONS = "/v1/models/two-moons/evaluations"
WAIT = {"Prefer": "wait=60"}
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(300, 2)).astype(np.float32)
LABELS = RNG.integers(0, 2, 300)
EPSILONS = [0.0, 0.05, 0.2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models and data; 'outside' lies beside the data folder."""
    root = tmp_path_factory.mktemp("evaluations")
    (root / "models").mkdir()
    (root / "models" / "two-moons.onnx").write_bytes(two_moons())
    (root / "models" / "images.onnx").write_bytes(to_file(groupsort_net((16, 8), 10)))
    (root / "data" / "sets").mkdir(parents=True)
    for place in (root / "data" / "sets", root):
        (place / "moons.npz").write_bytes(npz(inputs=INPUTS, labels=LABELS))
    return root


@pytest.fixture(scope="module")
def client(folder):
    settings = {
        "data": folder / "data",
        "max_upload_bytes": 200_000,
        "max_data_bytes": 400_000,
        "max_attacked": 60,
    }
    with running(folder / "models", **settings) as shared:
        yield shared


def npz(compressed=False, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def parquet(table, **options):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(table), file, **options)
    return file.getvalue()


def idx(array):
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def upload(client, files, url=EVALUATIONS, request='{"epsilons": [0.0, 0.05, 0.2]}'):
    return client.post(url, files=files, data={"request": request} if request else None, headers=WAIT)


def derived(inputs, labels):
    """The same from the radii alone, without the code under test."""
    radii = CertifiedPredictor(two_moons()).predict(inputs, Norm.TWO).radii
    right = [int(a) == int(b) for a, b in zip(radii.label, labels, strict=True)]
    kept = [r if ok else -1.0 for r, ok in zip(radii.certified_radius, right, strict=True)]
    curve = {f"{e:g}": sum(r >= e and r > 0 for r in kept) / len(kept) for e in EPSILONS}
    return sum(right) / len(right), curve


def expect(answer):
    assert answer.status_code == 200, answer.text
    report = answer.json()
    predictor = CertifiedPredictor(two_moons())
    library = evaluate(predictor, INPUTS, LABELS, epsilons=EPSILONS).to_dict()
    assert {key: report[key] for key in library} == library
    assert (report["clean_accuracy"], report["certified_accuracy"]) == derived(INPUTS, LABELS)
    assert report["sha256"] == predictor.file.sha256


def test_rows(client):
    body = {"inputs": INPUTS.astype(float).tolist(), "labels": LABELS.tolist(), "epsilons": EPSILONS}
    answer = client.post(EVALUATIONS, json=body, headers=WAIT)
    expect(answer)
    job = client.get(answer.headers["content-location"]).json()
    assert job["kind"] == "evaluation"
    asked = {"norm": None, "tighten": False, "attack": 0, "report": False}
    assert job["parameters"] == {"rows": 300, "epsilons": EPSILONS} | asked


def test_attacks_are_those_of_the_library(client):
    request = '{"epsilons": [0.05, 0.2], "attack": 50}'
    answer = upload(client, {"data": npz(inputs=INPUTS, labels=LABELS)}, request=request)
    expected = evaluate(CertifiedPredictor(two_moons()), INPUTS, LABELS, epsilons=[0.05, 0.2], attacked=50)
    result = EvaluationResult.model_validate_json(answer.text)  # the documented fields, no more and no less
    assert result.model_dump(mode="json", exclude={"sha256"}) == json.loads(json.dumps(expected.to_dict()))
    assert result.attacked_samples == 50
    for epsilon, attacked in result.attacked_accuracy.items():
        assert result.attacked_sample.certified_accuracy[epsilon] <= attacked
        assert attacked <= result.attacked_sample.clean_accuracy


@pytest.mark.parametrize("compressed", [False, True])
def test_npz(client, compressed):
    expect(upload(client, {"data": npz(compressed, inputs=INPUTS, labels=LABELS)}))


def test_parquet(client):
    table = {"a": INPUTS[:, 0], "b": INPUTS[:, 1], "label": LABELS}
    expect(upload(client, {"data": parquet(table)}))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx(client, pack):
    pixels, labels = RNG.integers(0, 256, (50, 4, 4), np.uint8), RNG.integers(0, 10, 50, np.uint8)
    files = {"images": pack(idx(pixels)), "labels": pack(idx(labels))}
    report = upload(client, files, "/v1/models/images/evaluations").json()
    predictor = CertifiedPredictor(to_file(groupsort_net((16, 8), 10)))
    flat = pixels.reshape(50, 16).astype(np.float32) / np.float32(255)
    assert report["samples"] == 50
    assert report["clean_accuracy"] == evaluate(predictor, flat, labels).clean_accuracy


def test_a_path(client):
    body = {"path": "sets/moons.npz", "epsilons": EPSILONS}
    answer = client.post(EVALUATIONS, json=body, headers=WAIT)
    expect(answer)
    assert client.get(answer.headers["content-location"]).json()["parameters"]["data"] == "sets/moons.npz"


@pytest.mark.parametrize(
    "path",
    ["../moons.npz", "sets/../../moons.npz", "sets/nope.npz", "/etc/passwd", "\0", "x" * 999, "link.npz",
     "linked", "loop", "pipe", "folder-of-links", "~/moons.npz"],
)  # fmt: skip
def test_a_path_that_leads_nowhere_or_out(client, folder, path):
    data = folder / "data"
    if not (data / "pipe").exists():
        (data / "link.npz").symlink_to(folder / "moons.npz")
        (data / "linked").symlink_to(folder)
        (data / "loop").symlink_to("loop")
        os.mkfifo(data / "pipe")
        (data / "folder-of-links").mkdir()
        (data / "folder-of-links" / "t10k-images-idx3-ubyte").symlink_to(folder / "moons.npz")
    answer = client.post(EVALUATIONS, json={"path": path})
    check(answer, ProblemKind.INVALID_INPUT, "path", "was not found")
    assert str(folder) not in answer.text


def test_links_within_the_data_folder_are_followed(client, folder):
    (folder / "data" / "..2024").mkdir()
    (folder / "data" / "..2024" / "moons.npz").write_bytes(npz(inputs=INPUTS, labels=LABELS))
    (folder / "data" / "..data").symlink_to("..2024")  # as Kubernetes mounts volumes
    (folder / "data" / "mounted.npz").symlink_to("..data/moons.npz")
    expect(client.post(EVALUATIONS, json={"path": "mounted.npz", "epsilons": EPSILONS}, headers=WAIT))


def test_links_deeper_in_a_folder_lead_nowhere_out(client, folder):
    batches = folder / "data" / "cifar" / "cifar-10-batches-bin"
    batches.mkdir(parents=True)
    (batches / "test_batch.bin").symlink_to(folder / "moons.npz")
    check(
        client.post(EVALUATIONS, json={"path": "cifar"}), ProblemKind.INVALID_INPUT, "path", "was not found"
    )


@pytest.mark.parametrize("swap", ["file", "folder"])
def test_a_link_put_there_while_the_job_waits_is_not_followed(serve, tmp_path, swap):
    data, state = tmp_path / "data", tmp_path / "state"
    for place in (data / "sets", tmp_path / "secret"):
        place.mkdir(parents=True)
        (place / "moons.npz").write_bytes(npz(inputs=INPUTS, labels=LABELS))
    client = serve({"two-moons": two_moons()}, data=data, state=state)
    client.post("/v1/models/two-moons/audits", json={"samples": 10}, headers={"Prefer": "respond-async"})
    first = stopped_worker(state)
    waits = client.post(EVALUATIONS, json={"path": "sets/moons.npz"}, headers={"Prefer": "respond-async"})
    replaced = data / "sets" / "moons.npz" if swap == "file" else data / "sets"
    replaced.rename(tmp_path / "aside")
    replaced.symlink_to(tmp_path / "secret" / "moons.npz" if swap == "file" else tmp_path / "secret")
    os.kill(first, signal.SIGCONT)
    place = waits.headers["location"]
    ended = eventually(lambda: (job := client.get(place).json())["state"] in ("done", "failed") and job)
    assert ended["state"] == "failed"
    assert ended["problem"]["errors"][0]["field"] == "path"
    assert str(tmp_path) not in ended["problem"]["detail"]


def test_a_pinned_file_is_read_even_if_replaced(tmp_path):
    data = tmp_path / "data"
    (data / "sets").mkdir(parents=True)
    (data / "sets" / "rows.csv").write_text("1,2,0\n")
    (tmp_path / "secret.csv").write_text("3,4,1\n")
    opened = pin(data, "sets", tmp_path / "pinned") / "rows.csv"
    (data / "sets" / "rows.csv").unlink()
    (data / "sets" / "rows.csv").symlink_to(tmp_path / "secret.csv")
    assert opened.read_text() == "1,2,0\n"


def test_a_link_created_between_check_and_opening_is_refused(tmp_path, monkeypatch):
    data = tmp_path / "data"
    (data / "sets").mkdir(parents=True)
    (data / "sets" / "rows.csv").write_text("1,2,0\n")
    (tmp_path / "rows.csv").write_text("3,4,1\n")
    seen = data_folder.find(data, "sets")
    monkeypatch.setattr(data_folder, "find", lambda *_: seen)
    for inside in (data / "sets" / "rows.csv", data / "sets"):
        inside.rename(tmp_path / f"aside-{inside.name}")
        inside.symlink_to(tmp_path / "rows.csv" if inside.suffix else tmp_path)
        with pytest.raises(InputError, match="was replaced while it was opened"):
            pin(data, "sets", tmp_path / "pinned")


def test_folders_of_many_files_are_refused(tmp_path):
    for number in range(data_folder.MAX_FILES + 1):
        (tmp_path / f"{number}.bin").touch()
    with pytest.raises(InputError, match="more than 500 files"):
        data_folder.find(tmp_path, ".")


def test_a_path_without_a_data_folder(serve):
    answer = serve({"two-moons": two_moons()}).post(EVALUATIONS, json={"path": "moons.npz"})
    check(answer, ProblemKind.INVALID_INPUT, "path", "has no data folder")


INVALID = {
    "nothing": ({}, "inputs", "is missing"),
    "no labels": ({"inputs": [[1, 2]]}, "labels", "0 labels for 1 inputs"),
    "labels alone": ({"labels": [1]}, "inputs", "is missing"),
    "too few labels": ({"inputs": [[1, 2], [1, 2]], "labels": [1]}, "labels", "1 labels for 2 inputs"),
    "label that is no class": ({"inputs": [[1, 2]], "labels": [2]}, "labels[0]", "0 to 1 are accepted"),
    "negative label": ({"inputs": [[1, 2]], "labels": [-1]}, "labels[0]", "0 to 1 are accepted"),
    "huge label": ({"inputs": [[1, 2]], "labels": [10**30]}, "labels[0]", "0 to 1 are accepted"),
    "label as number with a point": ({"inputs": [[1, 2]], "labels": [0.5]}, "labels[0]", "a whole number"),
    "name of a class": ({"inputs": [[1, 2]], "labels": ["upper"]}, "labels[0]", "is a string"),
    "wrong width": ({"inputs": [[1]], "labels": [0]}, "inputs[0]", "has 1 value; this model expects 2"),
    "beyond float32": ({"inputs": [[1, 1e39]], "labels": [0]}, "inputs[0][1]", "within float32"),
    "negative epsilon": ({"inputs": [[1, 2]], "labels": [0], "epsilons": [-1]}, "epsilons[0]", "at least 0"),
    "negative attack": ({"inputs": [[1, 2]], "labels": [0], "attack": -1}, "attack", "at least 0"),
    "attack as number with a point": ({"inputs": [[1, 2]], "labels": [0], "attack": 1.5}, "attack", "whole"),
    "attack of all": ({"inputs": [[1, 2]], "labels": [0], "attack": True}, "attack", "whole number"),
    "too many attacked": ({"inputs": [[1, 2]], "labels": [0], "attack": 61}, "attack", "at most 60"),
    "report by name": ({"inputs": [[1, 2]], "labels": [0], "report": "html"}, "report", "is a string"),
    "path and rows": ({"inputs": [[1, 2]], "labels": [0], "path": "a"}, "path", "only one source of data"),
    "path that is no string": ({"path": 1}, "path", "a string is accepted"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_rows(client, case):
    body, field, reason = INVALID[case]
    check(client.post(EVALUATIONS, json=body), ProblemKind.INVALID_INPUT, field, reason)


def lying_npy(shape, dtype="<f8"):
    """An .npz whose array announces more than it has."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 16
    return zipped({"inputs.npy": npy, "labels.npy": npy})


def zipped(members, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def damaged(content, at=-200):
    changed = bytearray(content)
    changed[at] ^= 0xFF
    return bytes(changed)


GOOD = npz(inputs=INPUTS, labels=LABELS)
GOOD_PARQUET = parquet({"a": INPUTS[:, 0], "b": INPUTS[:, 1], "label": LABELS})
HOSTILE = {
    "empty": (b"", "neither"),
    "text": (b"a,b\n1,2\n", "neither"),
    "pickle": (npz(inputs=np.array([{}], dtype=object), labels=LABELS), "only numbers"),
    "truncated": (GOOD[:1000], "cannot be read"),
    "damaged header": (damaged(GOOD, 60), "cannot be read"),
    "damaged numbers": (damaged(GOOD, 400), "cannot be read"),
    "bomb": (npz(compressed=True, inputs=np.zeros((10**6, 2)), labels=np.zeros(10**6)), "too large once decompressed"),
    "announces terabytes": (lying_npy((10**12, 2)), "announces shape"),
    "negative shape": (lying_npy((-1, 2)), "announces shape"),
    "header that is code": (zipped({"inputs.npy": b"\x93NUMPY\x01\x00\x0e\x00__import__('os')"}), "cannot be read"),
    "many arrays": (zipped({f"{i}.npy": b"" for i in range(100)}), "at most 64"),
    "zip of a text": (zipped({"inputs.npy": b"hello"}), "cannot be read"),
    "LZMA": (zipped({"inputs.npy": b"x"}, zipfile.ZIP_LZMA), "uses an unsupported compression method"),
    "names of a path": (zipped({"../../inputs.npy": GOOD}), "cannot be read"),
    "no labels": (npz(inputs=INPUTS), "no array 'labels'"),
    "fewer labels": (npz(inputs=INPUTS, labels=LABELS[:-1]), "the numbers must be equal"),
    "wrong width": (npz(inputs=np.zeros((4, 3)), labels=np.array([0, 1, 0, 1])), "[rows, 2] is accepted"),
    "class of none": (npz(inputs=INPUTS, labels=LABELS + 5), "class indices from 0 to 1"),
    "NaN": (npz(inputs=INPUTS * np.nan, labels=LABELS), "not a finite number"),
    "text array": (npz(inputs=INPUTS.astype(str), labels=LABELS), "only numbers"),
    "truncated parquet": (GOOD_PARQUET[:300], "cannot be read"),
    "parquet without its end": (b"PAR1" + b"\0" * 100, "cannot be read"),
    "damaged parquet": (GOOD_PARQUET[:200] + GOOD_PARQUET[900:], "cannot be read"),
    "parquet of text": (parquet({"a": ["x", "y"], "label": [0, 1]}), "has type string"),
    "parquet with a large footer": (b"PAR1" + bytes(100) + (2**26).to_bytes(4, "little") + b"PAR1", "footer has 67108864"),
    "label of twenty millions": (npz(inputs=INPUTS[:2], labels=np.array([0, 20_000_000])), "labels must be 0 to 99999"),
    "parquet bomb": (parquet({"a": np.zeros(10**6), "label": np.zeros(10**6)}), "too large once decompressed"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(client, case, tmp_path):
    content, reason = HOSTILE[case]
    assert len(content) < 200_000
    answer = upload(client, {"data": content})
    field = {"wrong width": "inputs", "class of none": "labels"}.get(case, "data")
    body = check(answer, ProblemKind.INVALID_INPUT, field, reason)
    assert "/work/" not in body["detail"]
    assert client.get("/healthz").status_code == 200


def test_parquet_without_its_reader_is_refused(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    answer = upload(client, {"data": GOOD_PARQUET})
    check(answer, ProblemKind.INVALID_INPUT, "data", "pyarrow is not installed")


def test_hostile_idx(client):
    good = idx(np.zeros((5, 4, 4), np.uint8))
    labels = idx(np.array([0, 1, 2, 3, 4], np.uint8))
    for images, reason in [
        (gzip.compress(b"\0" * 10**7), "too large once decompressed"),
        (gzip.compress(good)[:-20], "cannot be decompressed"),
        (good[:-1], "truncated or damaged"),
        (struct.pack(">4I", 0x0803, 2**31 - 1, 2**31 - 1, 4), "truncated or damaged"),
        (labels, "magic number"),
        (b"", "magic number"),
    ]:
        answer = upload(client, {"images": images, "labels": labels}, "/v1/models/images/evaluations")
        check(answer, ProblemKind.INVALID_INPUT, "data", reason)


def test_forms_that_are_refused(client):
    invalid = ProblemKind.INVALID_INPUT
    check(upload(client, {"images": b"x"}), invalid, "body", "expected are 'data', or 'images' and 'labels'")
    check(upload(client, {"data": GOOD, "more": b"x"}), invalid, "body")
    check(upload(client, {"request": b"{}", "data": GOOD}, request=None), invalid, "request", "is a file")
    check(
        upload(client, {"data": GOOD}, request='{"path": "x"}'), invalid, "request", "only one source of data"
    )
    check(upload(client, {"data": GOOD}, request='{"eps": 1}'), invalid, "eps", "is not a known field")
    check(upload(client, {"data": GOOD}, request="x"), ProblemKind.NOT_JSON)
    check(upload(client, {"data": b"\0" * 300_000}), ProblemKind.BODY_TOO_LARGE, reason="200000 bytes")
    check(upload(client, {f"f{i}": b"" for i in range(50)}), ProblemKind.NOT_A_FORM, reason="Too many files")
    for header, body in [("multipart/form-data", b"x"), ("multipart/form-data; boundary=x", b"no form")]:
        answer = client.post(EVALUATIONS, content=body, headers={"Content-Type": header})
        assert answer.status_code in (400, 422)
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_form_needs_no_request(client):
    assert upload(client, {"data": GOOD}, request=None).json()["certified_accuracy"] == {}


def test_nothing_refused_leaves_anything_behind(folder, tmp_path):
    with running(folder / "models", state=tmp_path / "state") as client:
        upload(client, {"data": HOSTILE["announces terabytes"][0]})
        upload(client, {"data": HOSTILE["NaN"][0]})
        eventually(lambda: not list((tmp_path / "state" / "work").iterdir()))  # after the job has ended
        assert [job["state"] for job in client.get("/v1/evaluations").json()["jobs"]] == ["failed"]
