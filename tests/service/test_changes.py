"""Models sent to the service, removed and labelled: by real clients, hostile ones too."""

import ctypes
import errno
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Norm
from service.models.admin import MAX_UPLOADS
from service.models.writer import staging, sweep
from service.problems import ProblemKind
from tests.networks import linear_net, to_file
from tests.service.conftest import (
    COMMAND,
    connected,
    digits,
    eventually,
    lipserve,
    running,
    two_moons,
    url_of,
)
from tests.service.test_bad_input import check
from tests.service.test_watching import external, moons, put
from tests.test_architecture import modules_after

MODEL = "/v1/models/two-moons"


@pytest.fixture
def client(serve):
    return serve({"two-moons": two_moons()}, uploads=True, max_model_bytes=2**20)


def files(folder):
    """All that lies in the models folder, half-done work included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def predict(client, path=MODEL):
    answer = client.post(f"{path}/predict", json={"inputs": [[1, 2]]})
    assert answer.status_code == 200, answer.text
    return answer.json()["model"]["sha256"]


def test_an_upload_is_the_next_version_at_once(client, tmp_path):
    first, second = (CertifiedPredictor(content).file.sha256 for content in (two_moons(), moons(1)))
    answer = client.put(MODEL, content=moons(1))
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{MODEL}/versions/2"
    body = answer.json()
    assert body == client.get(answer.headers["location"]).json() == client.get(MODEL).json()
    assert body["sha256"] == second
    assert body["bounds"]["2"]["global"] == CertifiedPredictor(moons(1)).bounds(Norm.TWO).bound_global
    assert predict(client) == second
    assert predict(client, f"{MODEL}/versions/1") == first
    again = client.put(MODEL, content=moons(1))
    assert again.status_code == 200
    assert again.json() == body
    assert files(tmp_path / "models") == ["two-moons.onnx", "two-moons/2/model.onnx"]
    assert client.put("/v1/models/new", content=moons(1)).headers["location"] == "/v1/models/new/versions/1"
    assert predict(client, "/v1/models/new") == second
    with running(tmp_path / "models") as another:
        assert another.get("/v1/models").json() == client.get("/v1/models").json()


def test_labels_roll_back_and_point_out_a_canary(client, tmp_path):
    first, second = (CertifiedPredictor(content).file.sha256 for content in (two_moons(), moons(1)))
    client.put(MODEL, content=moons(1))
    answer = client.put(f"{MODEL}/labels/latest", json={"version": 1})
    assert (answer.status_code, answer.json()["version"]) == (200, "1")
    assert predict(client) == first
    labels = client.put(f"{MODEL}/labels/canary", json={"version": 2}).json()["labels"]
    assert labels == {"latest": "1", "canary": "2"}
    assert predict(client, f"{MODEL}/versions/canary") == second
    assert client.put(MODEL, content=moons(2)).json()["version"] == "3"
    assert predict(client) == first  # as it was told
    with running(tmp_path / "models") as another:
        assert predict(another) == first
    assert client.delete(f"{MODEL}/labels/latest").status_code == 204
    assert client.get(MODEL).json()["version"] == "3"
    check(client.delete(f"{MODEL}/labels/latest"), ProblemKind.UNKNOWN_VERSION, reason="no label 'latest'")
    answer = client.delete(f"{MODEL}/versions/2")
    check(answer, ProblemKind.VERSION_LABELLED, reason="move or remove the label first")
    assert client.delete(f"{MODEL}/labels/canary").status_code == 204
    assert client.delete(f"{MODEL}/versions/2").status_code == 204
    assert [v["version"] for v in client.get(MODEL).json()["versions"]] == ["1", "3"]


@pytest.mark.parametrize(
    ("label", "body", "kind", "told"),
    [
        ("canary", {"version": 9}, ProblemKind.UNKNOWN_VERSION, "has no version '9'"),
        ("canary", {"version": 0}, ProblemKind.INVALID_INPUT, "at least 1"),
        ("canary", {"version": "1"}, ProblemKind.INVALID_INPUT, "a whole number is accepted"),
        ("canary", {"version": True}, ProblemKind.INVALID_INPUT, "a whole number is accepted"),
        ("canary", {"version": 10**30}, ProblemKind.INVALID_INPUT, ""),
        ("canary", {}, ProblemKind.INVALID_INPUT, "is missing"),
        ("12", {"version": 1}, ProblemKind.INVALID_INPUT, "is no number"),
        ("a b", {"version": 1}, ProblemKind.INVALID_INPUT, "letters"),
    ],
)
def test_labels_that_cannot_be(client, label, body, kind, told):
    answer = client.put(f"{MODEL}/labels/{label}", json=body)
    assert answer.json()["type"] == kind.uri
    assert told in answer.json()["detail"]
    assert client.get(MODEL).json()["labels"] == {"latest": "1"}


def test_removal(client, tmp_path):
    client.put(MODEL, content=moons(1))
    client.put("/v1/models/other", content=moons(1))
    put(tmp_path / "models" / "two-moons.toml", b"[policy]")
    assert client.delete(f"{MODEL}/versions/1").status_code == 204
    check(client.delete(f"{MODEL}/versions/1"), ProblemKind.UNKNOWN_VERSION)
    check(client.delete(f"{MODEL}/versions/latest"), ProblemKind.UNKNOWN_VERSION)
    assert client.get(MODEL).json()["version"] == "2"
    assert client.delete(MODEL).status_code == 204
    check(client.get(MODEL), ProblemKind.UNKNOWN_MODEL)
    check(client.delete(MODEL), ProblemKind.UNKNOWN_MODEL)
    assert files(tmp_path / "models") == ["other/1/model.onnx"]
    put(tmp_path / "models" / "bad" / "1" / "model.onnx", b"bad")
    eventually(lambda: "bad" in client.get("/v1/models").text)
    assert client.delete("/v1/models/bad").status_code == 204
    assert [m["name"] for m in client.get("/v1/models").json()["models"]] == ["other"]


def huge_dimensions():
    """A few bytes that announce terabytes."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 2], raw_data=b"1234")
    return one_node(helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), tensor)


def bomb():
    """A few bytes that compute a terabyte of weights."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2**38, 2])
    return one_node(
        helper.make_node("ConstantOfShape", ["shape"], ["w"]),
        shape,
        helper.make_node("Gemm", ["x", "w"], ["y"], transB=1),
    )


def tiled_bomb():
    """Doubled and doubled again: each step is small."""
    nodes = [helper.make_node("Concat", [f"w{i}"] * 16, [f"w{i + 1}"], axis=0) for i in range(9)]
    tensor = helper.make_tensor("w0", TensorProto.FLOAT, [1, 2], [1.0, 2.0])
    return one_node(nodes[0], tensor, *nodes[1:], helper.make_node("Gemm", ["x", "w9"], ["y"], transB=1))


def many_nodes():
    nodes = [helper.make_node("Identity", [f"x{i}" if i else "x"], [f"x{i + 1}"]) for i in range(100_000)]
    return one_node(nodes[0], None, *nodes[1:], output="x100000")


def one_node(node, tensor, *more, output="y"):
    graph = helper.make_graph(
        [node, *more],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [tensor] if tensor is not None else [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def deep_subgraphs():
    """Graphs within graphs, deeper than any reader may follow; as bytes, since no writer makes them."""
    content = b""
    for field in [1, 5, 6] * 5000 + [
        7
    ]:  # GraphProto.node, NodeProto.attribute, AttributeProto.g; ModelProto.graph
        content = bytes([field << 3 | 2]) + varint(len(content)) + content
    return content


def varint(number):
    """As protobuf writes numbers."""
    rest, low = divmod(number, 128)
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def secret(location):
    return external(moons(1), location)[0]


HOSTILE = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"hello", "not an ONNX model"),
    "truncated": (lambda: two_moons()[:-50], ""),
    "unknown operator": (lambda: one_node(helper.make_node("Frobnicate", ["x"], ["y"]), None), "Frobnicate"),
    "another domain": (
        lambda: one_node(helper.make_node("Evil", ["x"], ["y"], domain="evil"), None),
        "domain 'evil'",
    ),
    "softmax": (lambda: one_node(helper.make_node("Softmax", ["x"], ["y"]), None), "scores before it"),
    "weights elsewhere": (lambda: secret("../../../../etc/passwd"), "external"),
    "weights of another model": (lambda: secret("../two-moons.onnx"), "external"),
    "weights beside it": (lambda: secret("model.onnx"), "external"),
    "huge dimensions": (huge_dimensions, ""),
    "bomb": (bomb, ""),
    "tiled bomb": (tiled_bomb, ""),
    "many nodes": (many_nodes, "at most 10000"),
    "deep": (deep_subgraphs, ""),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_with_the_reason_and_leave_nothing(serve, tmp_path, case):
    client = serve({"two-moons": two_moons()}, uploads=True, check_bytes=2**30)
    before = client.get("/v1/models").json()
    content, told = HOSTILE[case]
    answer = client.put(MODEL, content=content())
    body = check(answer, ProblemKind.UPLOAD_REFUSED, reason="the file is refused: ")
    assert told in body["detail"]
    assert str(tmp_path) not in body["detail"]
    assert client.get("/v1/models").json() == before
    assert files(tmp_path / "models") == ["two-moons.onnx"]


def wide():
    """24 MB of weights, harmless; its bounds take several times as much."""
    return to_file(linear_net(np.random.default_rng(0).normal(size=(2400, 2500))))


def test_a_check_that_takes_too_much_memory_or_time_is_the_files_fault_alone(serve):
    for settings in ({"check_bytes": 2**28}, {"check_seconds": 0.2}):
        client = serve({"two-moons": two_moons()}, uploads=True, **settings)
        answer = client.put("/v1/models/wide", content=wide())
        check(answer, ProblemKind.UPLOAD_REFUSED)
        assert predict(client)


def test_uploads_that_are_not_accepted(client):
    def refused(kind, reason, path=MODEL, content=b"x", **headers):
        check(client.put(path, content=content, headers=headers), kind, reason=reason)

    refused(
        ProblemKind.UNSUPPORTED_MEDIA_TYPE,
        "Content-Type is 'application/json'; 'application/octet-stream' is accepted",
        **{"Content-Type": "application/json"},
    )
    refused(ProblemKind.UNSUPPORTED_MEDIA_TYPE, "uncompressed", **{"Content-Encoding": "gzip"})
    refused(ProblemKind.BODY_TOO_LARGE, "limit of 1048576 bytes", content=b"x" * (2**20 + 1))
    chunks = (b"x" * 2**16 for _ in range(17))
    refused(ProblemKind.BODY_TOO_LARGE, "limit of 1048576 bytes", content=chunks)
    for name in ("-x", "a b", "..", "x" * 65, "m.onnx", "m.toml", ".upload-1", "é", "%00", "..%2fx"):
        answer = client.put(f"/v1/models/{name}", content=moons(1))
        assert answer.status_code in (404, 405, 422), name
    answer = client.put("/v1/models/m.onnx", content=moons(1))
    check(answer, ProblemKind.INVALID_INPUT, "name", "'m.onnx' cannot be the name")
    assert [m["name"] for m in client.get("/v1/models").json()["models"]] == ["two-moons"]


def test_a_client_that_goes_away_leaves_nothing(client, tmp_path):
    with connected(client) as sock:
        sock.sendall(
            b"PUT /v1/models/two-moons HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
            + two_moons()[:900]
        )
        eventually(lambda: len(files(tmp_path / "models")) == 2)
    eventually(lambda: files(tmp_path / "models") == ["two-moons.onnx"])
    assert client.get(MODEL).json()["version"] == "1"


def test_uploads_at_once_each_get_a_version_of_their_own(client):
    contents = [moons(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda content: client.put(MODEL, content=content), contents))
    assert [a.status_code for a in answers] == [201] * 6
    assert sorted(a.json()["version"] for a in answers) == ["2", "3", "4", "5", "6", "7"]
    for content, answer in zip(contents, answers, strict=True):
        assert predict(client, answer.headers["location"]) == CertifiedPredictor(content).file.sha256


def test_servers_of_one_folder_lose_nothing_of_one_another(models, tmp_path):
    arguments = ("--models", models, "--port", 0, "--uploads")
    labels = [f"label{i}" for i in range(20)]
    with ExitStack() as stack:  # processes, as servers are: threads of one would share the framework's state
        one, other = (
            stack.enter_context(httpx.Client(base_url=url_of(stack.enter_context(process)), timeout=60))
            for state in ("one", "other")
            for process in [lipserve(*arguments, "--state", tmp_path / state)]
        )
        with ThreadPoolExecutor(4) as pool:
            clients = [one, other] * 10

            def upload(client, seed):
                for _ in range(60):
                    answer = client.put(MODEL, content=moons(seed))
                    if answer.status_code != 503:  # a file of the other server is being checked
                        break
                    time.sleep(float(answer.headers["retry-after"]))
                return answer

            uploads = list(pool.map(upload, clients[:4], range(4)))
            assert [a.status_code for a in uploads] == [201] * 4, [a.text[:300] for a in uploads]
            assert sorted(a.headers["location"][-1] for a in uploads) == ["2", "3", "4", "5"]
            given = pool.map(
                lambda client, label: client.put(f"{MODEL}/labels/{label}", json={"version": 1}),
                clients,
                labels,
            )
            assert {answer.status_code for answer in given} == {200}
        for client in (one, other):
            eventually(lambda client=client: {*labels} <= client.get(MODEL).json()["labels"].keys())
        check(other.delete(f"{MODEL}/versions/1"), ProblemKind.VERSION_LABELLED, reason="label0")


def test_uploads_are_off_unless_they_are_turned_on(serve, tmp_path):
    client = serve({"two-moons": two_moons()})
    for method, path in [
        ("PUT", MODEL),
        ("DELETE", MODEL),
        ("DELETE", f"{MODEL}/versions/1"),
        ("PUT", f"{MODEL}/labels/canary"),
        ("DELETE", f"{MODEL}/labels/latest"),
    ]:
        answer = client.request(method, path, json={"version": 1})
        reason = "uploads are disabled; start the service with --uploads"
        check(answer, ProblemKind.UPLOADS_OFF, reason=reason)
    assert files(tmp_path / "models") == ["two-moons.onnx"]


def without_overriding_permissions():
    """Run in the new process: root, too, may then write only where permissions allow."""
    prctl, drop_from_bounding_set = ctypes.CDLL(None, use_errno=True).prctl, 24
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        prctl(drop_from_bounding_set, capability, 0, 0, 0)


def test_a_folder_that_may_not_be_written(tmp_path):
    folder = tmp_path / "models"
    put(folder / "two-moons.onnx", two_moons())
    (folder / "two-moons").mkdir()
    for path in (folder / "two-moons", folder):
        path.chmod(0o555)
    command = [*COMMAND, "--models", folder, "--port", "0", "--uploads"]
    try:
        with (
            subprocess.Popen(
                [*map(str, command)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=without_overriding_permissions,  # noqa: PLW1509
            ) as process,
            httpx.Client(base_url=url_of(process)) as client,
        ):
            reason = "cannot write the models folder: Permission denied"
            check(client.put(MODEL, content=moons(1)), ProblemKind.NOT_WRITABLE, reason=reason)
            check(client.delete(MODEL), ProblemKind.NOT_WRITABLE, reason=reason)
            answer = client.put(f"{MODEL}/labels/canary", json={"version": 1})
            check(answer, ProblemKind.NOT_WRITABLE, reason=reason)
            assert predict(client)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    finally:
        folder.chmod(0o755)


def test_a_folder_linked_out_is_neither_written_to_nor_emptied(serve, tmp_path):
    put(tmp_path / "elsewhere" / "1" / "model.onnx", two_moons())
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "linked").symlink_to(tmp_path / "elsewhere")
    client = serve({}, uploads=True)
    for answer in (
        client.put("/v1/models/linked", content=moons(1)),
        client.delete("/v1/models/linked/versions/1"),
    ):
        check(answer, ProblemKind.NOT_WRITABLE, reason="'linked' is a link to a folder elsewhere")
    assert client.delete("/v1/models/linked").status_code == 204  # the link itself
    assert files(tmp_path / "models") == []
    assert files(tmp_path / "elsewhere") == ["1/model.onnx"]


def test_where_no_process_can_be_run_the_file_is_not_blamed(client, monkeypatch):
    def fail(*_):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("service.sandbox.checker_process.CheckerProcess._started", fail)
    answer = client.put(MODEL, content=moons(1))
    check(answer, ProblemKind.INTERNAL, reason="the process that checks files could not be run")
    assert client.get(MODEL).json()["version"] == "1"


def test_a_sweep_removes_leftovers_of_killed_services_alone(tmp_path):
    for name in (".upload-1", ".removed-2", "m"):
        put(tmp_path / name / "model.onnx", b"x")
    put(tmp_path / ".removed-3", b"x")
    put(tmp_path / "m" / ".upload-4", b"{}")
    with staging(tmp_path) as staged:
        sweep(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {staged.name, "m"}
        assert files(tmp_path) == ["m/model.onnx"]
    assert {path.name for path in tmp_path.iterdir()} == {"m"}


STAGE = "import sys, time, pathlib; from service.models.writer import staging\n"
STAGE += "with staging(pathlib.Path(sys.argv[1])) as staged: print(staged, flush=True); time.sleep(60)"


def test_uploads_of_a_server_that_was_killed_are_gone_at_the_next_start(tmp_path):
    command = [sys.executable, "-c", STAGE, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        staged = Path(process.stdout.readline().strip())
        sweep(tmp_path)
        assert staged.exists()
        process.kill()
    sweep(tmp_path)
    assert not staged.exists()


def test_the_check_imports_no_more_than_it_needs():
    loaded = modules_after("import service.sandbox.checker")
    assert not loaded & {"torch", "fastapi", "uvicorn", "sqlalchemy"}


def test_an_upload_that_would_break_clients_is_refused_unless_it_is_forced(client, tmp_path):
    body = check(client.put(MODEL, content=digits()), ProblemKind.INCOMPATIBLE_VERSION)
    assert "its inputs have shape [16], not [2]" in body["detail"]
    assert "its classes are '0', '1', '2', '3', not 'lower', 'upper'" in body["detail"]
    assert "?force=true" in body["detail"]
    assert client.get(MODEL).json()["version"] == "1"
    assert files(tmp_path / "models") == ["two-moons.onnx"]
    answer = client.put(f"{MODEL}?force=true", content=digits())
    assert (answer.status_code, answer.json()["input_size"]) == (201, 16)
    assert client.get(MODEL).json()["input_size"] == 16
    check(client.put(MODEL, content=moons(1)), ProblemKind.INCOMPATIBLE_VERSION)
    with running(tmp_path / "models") as another:  # and so it stays
        assert another.get(MODEL).json()["version"] == "2"
    client.put(f"{MODEL}/labels/latest", json={"version": 1})
    answer = client.put(MODEL, content=moons(1))  # nobody gets it who does not ask for it
    assert (answer.status_code, answer.json()["versions"][-1]["status"]) == (201, "served")
    assert client.get(MODEL).json()["version"] == "1"


def test_so_many_uploads_at_a_time_and_no_more(client, tmp_path):
    with ExitStack() as stack:
        for _ in range(MAX_UPLOADS):
            sock = stack.enter_context(connected(client))
            sock.sendall(b"PUT /v1/models/m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
        eventually(lambda: len(files(tmp_path / "models")) == 1 + MAX_UPLOADS)
        answer = client.put(MODEL, content=moons(1))
        check(answer, ProblemKind.QUEUE_FULL, reason=f"({MAX_UPLOADS} in progress)")
        assert int(answer.headers["Retry-After"]) > 0
    eventually(lambda: client.put(MODEL, content=moons(1)).status_code == 201)
