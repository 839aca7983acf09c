"""The Open Inference Protocol, with Triton's own client, unmodified."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Norm
from service.problems import ProblemKind
from tests.service.conftest import digits, two_moons

triton = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
X = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
CERTIFIED = ["label", "label_index", "margin", "certified_radius", "abstained"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from tests.service.conftest import running

    folder = tmp_path_factory.mktemp("models")
    for name, content in {"two-moons": two_moons(), "digits": digits()}.items():
        (folder / f"{name}.onnx").write_bytes(content)
    with running(folder, max_rows=100, max_body_bytes=100_000, uploads=True) as client:
        yield client


@pytest.fixture(scope="module")
def client(server):
    url = f"{server.base_url.host}:{server.base_url.port}"
    with triton.InferenceServerClient(url) as connected:
        yield connected


def inputs_of(client, name="two-moons", x=X, *, binary, datatype="FP32"):
    (described,) = client.get_model_metadata(name)["inputs"]
    tensor = triton.InferInput(described["name"], list(x.shape), datatype)
    tensor.set_data_from_numpy(x, binary_data=binary)
    return [tensor]


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("two-moons")
    assert client.is_model_ready("two-moons", "1")
    assert not client.is_model_ready("two-moons", "2")
    assert not client.is_model_ready("unknown")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_repository"]
    metadata = client.get_model_metadata("digits", "1")
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"][0]["shape"] == [-1, 16]
    assert [o["name"] for o in metadata["outputs"]][1:] == CERTIFIED


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_inference_is_the_prediction(client, binary_in, binary_out, datatype):
    x = X.astype(np.float64) / 3 if datatype == "FP64" else X
    scores = client.get_model_metadata("two-moons")["outputs"][0]["name"]
    outputs = [triton.InferRequestedOutput(n, binary_data=binary_out) for n in [scores, *CERTIFIED]]
    asked = inputs_of(client, x=x, binary=binary_in, datatype=datatype)
    result = client.infer("two-moons", asked, outputs=outputs, request_id="7")
    predictor = CertifiedPredictor(two_moons())
    wanted = predictor.predict(x)
    assert result.get_response()["id"] == "7"
    assert (result.as_numpy(scores) == wanted.scores).all()
    assert (result.as_numpy("certified_radius") == wanted.radii.certified_radius).all()
    assert (result.as_numpy("margin") == wanted.radii.margin).all()
    assert (result.as_numpy("label_index") == wanted.radii.label).all()
    names = [n.decode() if isinstance(n, bytes) else n for n in result.as_numpy("label")]
    assert names == [predictor.class_names[i] for i in wanted.radii.label]
    assert not result.as_numpy("abstained").any()


def test_norm_and_epsilon_are_parameters(client):
    asked = inputs_of(client, binary=True)
    result = client.infer("two-moons", asked, parameters={"norm": "inf", "epsilon": 0.1, "portable": True})
    radii = CertifiedPredictor(two_moons()).predict(X, Norm.INF).radii.certified_radius
    assert (result.as_numpy("certified_radius") == radii).all()
    assert (result.as_numpy("certified") == (radii >= 0.1)).all()
    assert (result.as_numpy("radius_float32_portable") < radii).all()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_requests_may_be_compressed(client, algorithm):
    asked = inputs_of(client, binary=True)
    plain = client.infer("two-moons", asked).as_numpy("certified_radius")
    packed = client.infer("two-moons", asked, request_compression_algorithm=algorithm)
    assert (packed.as_numpy("certified_radius") == plain).all()


def test_models_are_loaded_and_unloaded(client):
    client.unload_model("digits")
    assert not client.is_model_ready("digits")
    states = {m["name"]: m["state"] for m in client.get_model_repository_index()}
    assert states == {"two-moons": "READY", "digits": "UNAVAILABLE"}
    client.load_model("digits")
    assert client.is_model_ready("digits")
    with pytest.raises(triton.InferenceServerException, match="parameters"):
        client.load_model("digits", config="{}")
    with pytest.raises(triton.InferenceServerException, match="no model is named"):
        client.load_model("unknown")


def test_what_is_wrong_is_told_to_the_client(client):
    wrong = triton.InferInput("other", [1, 2], "FP32")
    wrong.set_data_from_numpy(X[:1])
    with pytest.raises(triton.InferenceServerException, match="the input is 'input'"):
        client.infer("two-moons", [wrong])
    with pytest.raises(triton.InferenceServerException, match=r"\[rows, 2\] is accepted"):
        client.infer("two-moons", inputs_of(client, x=np.zeros((1, 3), np.float32), binary=True))
    with pytest.raises(triton.InferenceServerException, match="finite"):
        client.infer("two-moons", inputs_of(client, x=np.full((1, 2), np.nan, np.float32), binary=True))
    with pytest.raises(triton.InferenceServerException, match="at most 100 are accepted"):
        client.infer("two-moons", inputs_of(client, x=np.zeros((101, 2), np.float32), binary=True))
    outputs = [triton.InferRequestedOutput("logits")]
    with pytest.raises(triton.InferenceServerException, match="outputs are"):
        client.infer("two-moons", inputs_of(client, binary=True), outputs=outputs)
    half = triton.InferInput("input", [1, 2], "FP16")
    half.set_data_from_numpy(X[:1].astype(np.float16))
    with pytest.raises(triton.InferenceServerException, match="'FP32' or 'FP64'"):
        client.infer("two-moons", [half])


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "٣", "9" * 5000])
def test_lengths_of_headers_that_are_none(server, length):
    answer = server.post(
        "/v2/models/two-moons/infer",
        content=b"{}",
        headers={"Inference-Header-Content-Length": length.encode()},
    )
    assert answer.status_code == 422
    assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/models/two-moons/infer", "/v2/models/two-moons/predict"])
def test_verbs_of_the_other_protocol_are_no_routes(server, path):
    answer = server.post(path, content=b"{}")
    assert answer.json()["type"] == ProblemKind.NO_ROUTE.uri


def test_a_policy_withholds_labels(tmp_path):
    from tests.service.conftest import running

    (tmp_path / "two-moons.onnx").write_bytes(two_moons())
    radii = CertifiedPredictor(two_moons()).predict(X).radii
    epsilon = float(np.median(radii.certified_radius))
    below = radii.certified_radius < epsilon
    (tmp_path / "two-moons.toml").write_text(f'[policy]\nepsilon = {epsilon!r}\naction = "abstain"')
    assert 0 < below.sum() < len(X)
    with running(tmp_path) as client:
        tensor = {"name": "input", "shape": [5, 2], "datatype": "FP32", "data": X.ravel().tolist()}
        answer = client.post("/v2/models/two-moons/infer", json={"inputs": [tensor]})
        assert isinstance(answer, httpx.Response)
        outputs = {o["name"]: o["data"] for o in answer.json()["outputs"]}
    assert outputs["abstained"] == below.tolist()
    assert outputs["label_index"] == np.where(below, -1, radii.label).tolist()
    assert [label == "" for label in outputs["label"]] == below.tolist()
    assert outputs["certified"] == (~below).tolist()
