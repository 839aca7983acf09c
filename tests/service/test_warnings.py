"""Inputs far outside the range that a file names: warned of by every protocol, and counted; the answer stays."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from lipcert.client import Client
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from tests.service.conftest import CLAIMS, running, two_moons

CLAIMED = replace(CLAIMS, input_box=(-1.0, 2.0))
NEAR, FAR = [[0.5, 0.25], [-4.0, 5.0]], [[0.5, 5.25], [-4.5, 0.0]]
"""Beyond the box by at most its width 3, and by more."""
PREDICT = "/v1/models/claiming/predict"
COUNTER = 'lipserve_inputs_outside_box_total{model="claiming"}'


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "claiming.onnx").write_bytes(two_moons(CLAIMED))
    (folder / "silent.onnx").write_bytes(two_moons(replace(CLAIMS, input_box=None)))
    with running(folder) as client:
        yield client


def counted(client):
    text = client.get("/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(COUNTER))


@pytest.mark.parametrize("more", [{}, {"tighten": True}, {"portable": True}, {"norm": "inf"}])
def test_an_input_far_outside_is_warned_of_and_answered_all_the_same(client, more):
    before = counted(client)
    told = client.post(PREDICT, json={"inputs": [*NEAR, *FAR], **more}).json()
    (warning,) = told["warnings"]
    assert (warning["kind"], warning["inputs"]) == ("outside-input-box", [2, 3])
    assert warning["detail"].startswith("2 of 4 inputs lie far outside the input range")
    assert "-1 to 2" in warning["detail"]
    assert counted(client) == before + 2
    silent = client.post("/v1/models/silent/predict", json={"inputs": [*NEAR, *FAR], **more}).json()
    assert silent["warnings"] == []
    if "tighten" not in more:  # which proves as much as it has time for
        assert silent["predictions"] == told["predictions"], "a warning takes nothing from a certificate"


def test_one_that_is_near_is_not(client):
    before = counted(client)
    assert client.post(PREDICT, json={"inputs": NEAR}).json()["warnings"] == []
    assert counted(client) == before


def test_arrays_and_tensors_are_warned_of(client):
    triton = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
    file = io.BytesIO()
    np.save(file, np.array([NEAR[0], FAR[0]], np.float32))
    told = client.post(PREDICT, content=file.getvalue(), headers={"Content-Type": "application/x-npy"}).json()
    assert [warning["inputs"] for warning in told["warnings"]] == [[1]]
    protocol = triton.InferenceServerClient(client.base_url.netloc.decode())
    words = told["warnings"][0]["detail"].replace("1 of", "2 of")
    for rows, warnings in ((FAR, words), (NEAR, None)):
        tensor = triton.InferInput("input", [2, 2], "FP32")
        tensor.set_data_from_numpy(np.array(rows, np.float32))
        answer = protocol.infer("claiming", [tensor]).get_response()
        assert answer["parameters"].get("warnings") == warnings
    protocol.close()


def test_requests_that_are_run_together_are_warned_each_of_its_own(client):
    bodies = [{"inputs": [NEAR[0], FAR[1]]} if number % 3 == 0 else {"inputs": NEAR} for number in range(60)]
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda body: client.post(PREDICT, json=body).json(), bodies))
    found = [[warning["inputs"] for warning in answer["warnings"]] for answer in answers]
    assert found == [[[1]] if number % 3 == 0 else [] for number in range(60)]


def test_the_client_has_them(client):
    with Client(str(client.base_url)) as service:
        assert [warning.inputs for warning in service.predict("claiming", FAR).warnings] == [[0, 1]]
        assert service.predict("claiming", NEAR).warnings == ()


@pytest.mark.parametrize("box", [(0.0, 1.0), (-3.0, -2.5), (2.0, 2.0), (-3e38, 3e38)])
def test_the_rule_is_exact(box):
    """Beyond the box by more than its own width: the last number that is not, and the next."""
    claims = Claims(norm=Norm.TWO, input_box=box)
    low, high = box[0] - (box[1] - box[0]), box[1] + (box[1] - box[0])
    edge = np.array([[low, high], [high, low]])
    assert claims.far_outside(edge) is None
    beyond = np.array([[low, high], [np.nextafter(low, -np.inf), high], [low, np.nextafter(high, np.inf)]])
    assert claims.far_outside(beyond).tolist() == [False, True, True]
    assert replace(claims, input_box=None).far_outside(beyond) is None
