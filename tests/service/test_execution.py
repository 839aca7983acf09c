"""A model set to float32: every answer is of float32 execution, and says so."""

from __future__ import annotations

import numpy as np
import pytest

from lipcert.client import Client
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.signed.check import check_answer
from lipmodel.signed.jws import open_signed
from lipmodel.signed.key_sets import add_signing_key, read_public
from tests.certify.test_execution import CAST, near_boundaries
from tests.service.conftest import digits

EXECUTIONS = {"float64": np.float64, "float32": np.float32}
PREDICT, INFER = "/v1/models/digits/predict", "/v2/models/digits/infer"


@pytest.fixture(params=EXECUTIONS)
def served(request, serve, tmp_path):
    """The name of an execution, a service set to it that signs, and inputs near boundaries."""
    add_signing_key(tmp_path / "signing.json")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "digits.toml").write_text(f'[serving]\nexecution = "{request.param}"')
    client = serve({"digits": digits()}, signing_keys=tmp_path / "signing.json", max_attacked=5)
    return request.param, client, near_boundaries(CertifiedPredictor(digits()))[::2]


def test_every_answer_names_it_and_has_its_label(served):
    execution, client, x = served
    predictor = CertifiedPredictor(digits()).executing(EXECUTIONS[execution])
    labels = predictor.predict(x).radii.label.tolist()
    public = read_public(client.get("/.well-known/jwks.json").content, "jwks")
    for more in (
        {},
        {"tighten": True},
        {"portable": True},
        {"certificate": True},
        {"tighten": True, "certificate": True},
    ):
        told = client.post(PREDICT, json={"inputs": x.tolist(), **more}).json()
        assert told["execution"] == execution
        assert [one["label_index"] for one in told["predictions"]] == labels, more
        for row, one in zip(x, told["predictions"], strict=True):
            if one["certificate"]:
                answer = open_signed(one["certificate"], public).answer
                assert (answer.execution, answer.label_index) == (execution, one["label_index"])
                assert all(check.passed for check in check_answer(answer, digits(), row))
        tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP64", "data": x.ravel().tolist()}
        v2 = client.post(INFER, json={"inputs": [tensor], "parameters": more}).json()
        assert v2["parameters"]["execution"] == execution
        assert next(o["data"] for o in v2["outputs"] if o["name"] == "label_index") == labels
    with Client(str(client.base_url)) as own:
        assert own.predict("digits", x).execution == execution
        assert [one.label_index for one in own.predict("digits", x, npy=True)] == labels


def test_attacks_and_jobs_are_of_it(served):
    execution, client, x = served
    predictor = CertifiedPredictor(digits()).executing(EXECUTIONS[execution])
    found = predictor.predict(x).radii
    told = client.post("/v1/models/digits/attacks", json={"inputs": x[:3].tolist()}).json()
    assert told["execution"] == execution
    assert [one["certified_radius"] for one in told["findings"]] == found.certified_radius[:3].tolist()
    labelled = {"inputs": x.tolist(), "labels": found.label.tolist(), "epsilons": [1e-4]}
    with Client(str(client.base_url)) as own:
        for kind, parameters in (("evaluation", labelled), ("audit", {"samples": 20})):
            result = own.wait(kind, own.start(kind, "digits", parameters)).result
            assert result["execution"] == execution
            if kind == "evaluation":
                assert result["clean_accuracy"] == 1.0
                share = (found.certified_radius >= 1e-4).mean()
                assert result["certified_accuracy"]["0.0001"] == pytest.approx(share)


def test_weights_behind_a_cast_are_refused_in_float32(serve, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "cast.toml").write_text('[serving]\nexecution = "float32"')
    (model,) = serve({"cast": CAST}).get("/v1/models").json()["models"]
    assert model["status"] == "refused"
    assert "computes in float32 throughout" in model["reason"]
