"""Threat sets over HTTP: named in a model's settings or described in a request, in every protocol."""

import io
import json

import numpy as np
import pytest

from lipmodel.certify.predictor import MAX_SCALED, CertifiedPredictor
from lipmodel.errors import ModelError
from lipmodel.evaluate import evaluate
from lipmodel.norms import Norm
from lipmodel.signed.key_sets import add_signing_key
from lipmodel.threat import Threat
from service.models.settings import parse_settings
from service.problems import ProblemKind
from tests.service.conftest import two_moons
from tests.service.test_bad_input import check

PREDICT = "/v1/models/two-moons/predict"
INPUTS = [[0.5, 0.25], [1.0, 2.0], [-1.0, 0.5]]
CLERICAL = Threat(Norm.INF, (0.5, 0.0))
SETTINGS = '[threats.clerical]\nnorm = "inf"\nscale = {0 = 0.5, "*" = 0}\n'


def radii(threat, **options):
    return CertifiedPredictor(two_moons()).predict(INPUTS, threat, **options).radii.certified_radius.tolist()


def served_with(serve, tmp_path, settings=SETTINGS, **more):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "two-moons.toml").write_text(settings)
    return serve({"two-moons": two_moons()}, **more)


def ask(client, **more):
    answer = client.post(PREDICT, json={"inputs": INPUTS, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    "threat", ["clerical", {"norm": "linf", "scale": [0.5, 0]}, {"norm": "inf", "scale": {"0": 0.5, "*": 0}}]
)
def test_a_threat_set_by_name_and_by_description(serve, tmp_path, threat):
    client = served_with(serve, tmp_path)
    for _ in range(2):  # bounds are derived for the first request alone
        answer = ask(client, threat=threat)
        assert [p["certified_radius"] for p in answer["predictions"]] == radii(CLERICAL)
        assert answer["threat"] == threat
        assert {p["norm"] for p in answer["predictions"]} == {"inf"}
    assert min(radii(CLERICAL)) > min(radii(Norm.INF))  # a frozen column and half a unit


def test_radii_for_a_ball_name_no_threat_set_and_scaled_ones_enter_no_histogram(serve, tmp_path):
    client = served_with(serve, tmp_path)
    ask(client, threat="clerical")
    ask(client, threat={"norm": "inf", "scale": [0.25, 0]})
    assert "lipserve_certified_radius_count" not in client.get("/metrics").text
    assert "threat" not in ask(client)
    assert "threat" not in ask(client, threat={"norm": "inf"})
    assert "lipserve_certified_radius_count" in client.get("/metrics").text


def test_epsilon_tighten_and_portable_are_in_units_of_the_scale(serve, tmp_path):
    client = served_with(serve, tmp_path, tighten_seconds=60)
    found = ask(client, threat="clerical", epsilon=0.3, tighten=True, portable=True)["predictions"]
    assert [p["certified_radius"] for p in found] == pytest.approx(radii(CLERICAL, tighten=True), rel=1e-3)
    assert [p["certified"] for p in found] == [p["certified_radius"] >= 0.3 for p in found]
    portable = CertifiedPredictor(two_moons()).portable_radii(INPUTS, CLERICAL).tolist()
    assert [p["radius_float32_portable"] for p in found] == portable


def test_threat_sets_in_npy_and_v2(serve, tmp_path):
    client = served_with(serve, tmp_path)
    body = io.BytesIO()
    np.save(body, np.array(INPUTS))
    for threat in ("clerical", json.dumps({"norm": "inf", "scale": [0.5, 0]})):
        answer = client.post(
            PREDICT,
            content=body.getvalue(),
            headers={"content-type": "application/x-npy"},
            params={"threat": threat},
        ).json()
        assert [p["certified_radius"] for p in answer["predictions"]] == radii(CLERICAL)
    name = CertifiedPredictor(two_moons()).file.graph.input
    tensor = {"name": name, "shape": [3, 2], "datatype": "FP64", "data": INPUTS}
    for threat in ("clerical", {"norm": "inf", "scale": [0.5, 0]}):
        request = {"inputs": [tensor], "parameters": {"threat": threat}}
        answer = client.post("/v2/models/two-moons/infer", json=request).json()
        (found,) = [output for output in answer["outputs"] if output["name"] == "certified_radius"]
        assert found["data"] == radii(CLERICAL)


def test_threat_sets_are_listed_with_the_model(serve, tmp_path):
    client = served_with(serve, tmp_path)
    assert client.get("/v1/models/two-moons").json()["threats"] == {
        "clerical": {"norm": "inf", "scale": [0.5, 0.0]}
    }
    assert client.get("/v1/models").json()["models"][0]["threats"] == {"clerical": CLERICAL.to_json()}


@pytest.mark.parametrize(
    ("more", "field", "reason"),
    [
        ({"threat": "cleric"}, "threat", "'cleric' is unknown; this model has 'clerical'"),
        ({"threat": "clerical", "norm": "2"}, "threat", "beside 'norm'"),
        ({"threat": {"norm": "5"}}, "threat.norm", "unknown norm"),
        ({"threat": {"scale": [1]}}, "threat.scale", "has 1 numbers; this model has 2 columns"),
        ({"threat": {"scale": [1, -1]}}, "threat.scale[1]", "between 2^-100 and 2^100"),
        ({"threat": {"scale": {"age": 1}}}, "threat.scale.age", "no column"),
        ({"threat": {"scale": 0}}, "threat.scale", "freezes every column"),
        ({"threat": {"sclae": 1}}, "threat.sclae", "known members are norm and scale"),
        ({"threat": 3}, "threat", ""),
    ],
)
def test_threat_sets_that_are_none_are_refused(serve, tmp_path, more, field, reason):
    client = served_with(serve, tmp_path)
    answer = client.post(PREDICT, json={"inputs": INPUTS, **more})
    if more["threat"] == 3:
        assert answer.status_code == 422
        return
    check(answer, ProblemKind.INVALID_INPUT, field, reason)


def test_numbers_that_json_cannot_hold_are_refused(serve, tmp_path):
    client = served_with(serve, tmp_path)
    for number in ("NaN", "Infinity", "1e999", "1" * 400):
        text = json.dumps({"inputs": INPUTS, "threat": {"scale": [1, 2]}}).replace("[1, 2]", f"[1, {number}]")
        answer = client.post(PREDICT, content=text, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422), answer.text


def test_the_policy_may_require_a_threat_set(serve, tmp_path):
    between = sorted(radii(CLERICAL))[1]
    policy = f'[policy]\nthreat = "clerical"\nepsilon = {between!r}\naction = "abstain"\n'
    client = served_with(serve, tmp_path, policy + SETTINGS)
    answer = ask(client)
    assert answer["threat"] == "clerical"
    assert [p["abstained"] for p in answer["predictions"]] == [r < between for r in radii(CLERICAL)]
    assert ask(client, threat={"norm": "inf", "scale": [0.5, 0.0]})["predictions"] == answer["predictions"]
    refused = client.post(PREDICT, json={"inputs": INPUTS, "norm": "2"})
    check(refused, ProblemKind.INVALID_INPUT, "norm", "accepts only 'clerical', the threat set of its policy")
    refused = client.post(PREDICT, json={"inputs": INPUTS, "threat": {"norm": "inf", "scale": [1, 0]}})
    check(refused, ProblemKind.INVALID_INPUT, "threat", "accepts only 'clerical'")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[policy]\nthreat = "other"\n', r"policy.threat is 'other', which has no table \[threats.other\]"),
        ("[threats.a]\nscale = [1]", r"threats.a.scale has 1 numbers; this model has 2 columns"),
        ("[threats.a]\nscale = {age = 1}", "threats.a.scale.age is no column"),
        ('[threats.a]\nnorm = "7"', "threats.a.norm unknown norm '7'"),
        ("[threats.a]\nscale = [nan, 1]", r"threats.a.scale\[0\] is not a number"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused_with_the_reason(text, reason):
    with pytest.raises(ModelError, match=f"its settings are not accepted: {reason}"):
        parse_settings(text.encode()).of(CertifiedPredictor(two_moons()))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[policy]\nthreat = "a"\nnorm = "2"', "policy.norm and policy.threat are both set"),
        ("\n".join(f"[threats.t{n}]" for n in range(17)), "threats is"),
        ("threats = 3", "threats is '3'"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(text, reason):
    with pytest.raises(ModelError, match=reason):
        parse_settings(text.encode())


def test_bounds_of_few_threat_sets_are_kept():
    predictor = CertifiedPredictor(two_moons())
    predictor.ready()
    for n in range(3 * MAX_SCALED):
        predictor.predict(INPUTS, Threat(Norm.TWO, (1.0, 2.0 + n)), tighten=n < 2)
    kept = [threat for threat in predictor._lipschitz if threat.scale is not None]
    assert len(kept) == MAX_SCALED
    assert len(predictor._rules) <= MAX_SCALED + 3
    assert not any(threat.scale is not None for threat in predictor._local)
    assert set(Norm) <= {threat.norm for threat in predictor._lipschitz if threat.scale is None}


def test_signed_certificates_are_issued_for_balls(serve, tmp_path):
    add_signing_key(tmp_path / "signing.json")
    client = served_with(serve, tmp_path, signing_keys=tmp_path / "signing.json")
    refused = client.post(PREDICT, json={"inputs": INPUTS, "threat": "clerical", "certificate": True})
    check(refused, ProblemKind.INVALID_INPUT, "threat", "signed certificates are issued for balls")


def test_evaluations_in_a_threat_set(serve, tmp_path):
    client = served_with(serve, tmp_path)
    path, wait = "/v1/models/two-moons/evaluations", {"Prefer": "wait=60"}
    body = {"inputs": INPUTS, "labels": [0, 1, 1], "epsilons": [0.1]}
    expected = evaluate(
        CertifiedPredictor(two_moons()), np.array(INPUTS), np.array([0, 1, 1]), CLERICAL, [0.1]
    )
    for threat in ("clerical", {"norm": "inf", "scale": [0.5, 0]}):
        answer = client.post(path, json=body | {"threat": threat}, headers=wait)
        assert answer.status_code == 200, answer.text
        result = answer.json()
        assert result["scale"] == [0.5, 0.0]
        assert result["norm"] == "inf"
        assert result["certified_accuracy"] == expected.to_dict()["certified_accuracy"]
        assert result["certified_radius_quantiles"] == expected.to_dict()["certified_radius_quantiles"]
    drift = client.get(
        "/v1/models/two-moons/drift", params={"evaluation": answer.headers["content-location"].split("/")[-1]}
    )
    check(
        drift,
        ProblemKind.INVALID_INPUT,
        field="evaluation",
        reason="is of a scaled threat set; one in a norm is accepted",
    )
    check(client.post(path, json=body | {"threat": "none"}), ProblemKind.INVALID_INPUT, field="threat")
    both = client.post(path, json=body | {"threat": "clerical", "norm": "2"})
    check(both, ProblemKind.INVALID_INPUT, field="threat")
    assert "scale" not in client.post(path, json=body, headers=wait).json()
