from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Norm
from tests.certify.test_head import HEADS
from tests.networks import linear_net, to_file
from tests.service.conftest import digits, two_moons


def test_an_answer_has_all_that_is_promised(client):
    answer = client.post("/v1/models/two-moons/predict", json={"inputs": [[0.5, 0.25]]})
    assert answer.status_code == 200
    predictor = CertifiedPredictor(two_moons())
    body = answer.json()
    assert body["model"] == {"name": "two-moons", "version": "1", "sha256": predictor.file.sha256}
    (prediction,) = body["predictions"]
    assert prediction["label"] == ("lower", "upper")[prediction["label_index"]]
    assert prediction["runner_up"] == ("upper", "lower")[prediction["label_index"]]
    assert prediction["certified_radius"] > 0
    assert prediction["norm"] == "2"
    assert prediction["certified"] is None


@pytest.mark.parametrize(
    ("norm", "spellings"), [("1", ["l1", "L1", 1, 1.0]), ("2", ["l2", 2]), ("inf", ["linf", "Inf"])]
)
def test_a_norm_may_be_spelt_in_every_way(client, norm, spellings):
    asked = [
        client.post("/v1/models/two-moons/predict", json={"inputs": [[1, 2]], "norm": n})
        for n in [norm, *spellings]
    ]
    assert len({answer.content for answer in asked}) == 1
    assert asked[0].json()["predictions"][0]["norm"] == norm


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize(("name", "content"), [("two-moons", two_moons), ("digits", digits)])
def test_numbers_are_those_of_the_predictor_to_the_last_bit(client, name, content, norm):
    predictor = CertifiedPredictor(content())
    inputs = np.random.default_rng(7).normal(size=(50, predictor.file.graph.input_size))
    expected = predictor.predict(inputs, norm)
    answer = client.post(f"/v1/models/{name}/predict", json={"inputs": inputs.tolist(), "norm": norm})
    rows = answer.json()["predictions"]
    assert [r["label_index"] for r in rows] == expected.radii.label.tolist()
    assert [r["scores"] for r in rows] == expected.scores.tolist()
    assert [r["margin"] for r in rows] == expected.radii.margin.tolist()
    assert [r["certified_radius"] for r in rows] == expected.radii.certified_radius.tolist()
    assert [r["runner_up"] for r in rows] == [
        predictor.class_names[i] for i in expected.radii.runner_up.tolist()
    ]
    assert {r["norm"] for r in rows} == {norm.value}


def test_certified_compares_the_radius_with_epsilon(client):
    def ask(epsilon):
        body = {"inputs": [[0.5, 0.25]], "epsilon": epsilon}
        return client.post("/v1/models/two-moons/predict", json=body).json()["predictions"][0]

    radius = ask(0)["certified_radius"]
    assert ask(0)["certified"] is True
    assert ask(radius)["certified"] is True
    assert ask(np.nextafter(radius, np.inf))["certified"] is False
    assert ask(None)["certified"] is None


def test_a_radius_of_zero_certifies_no_epsilon_not_even_zero(serve):
    client = serve({"flat": to_file(linear_net(np.zeros((2, 2))))})
    answer = client.post("/v1/models/flat/predict", json={"inputs": [[1, 2]], "epsilon": 0})
    (prediction,) = answer.json()["predictions"]
    assert prediction["certified_radius"] == 0
    assert prediction["certified"] is False


def test_many_callers_each_get_their_own_answer(serve):
    content = digits()
    client = serve({"digits": content})
    rng = np.random.default_rng(3)
    batches = [rng.normal(size=(int(rng.integers(1, 40)), 16)) for _ in range(200)]
    predictor = CertifiedPredictor(content)

    def ask(batch):
        answer = client.post("/v1/models/digits/predict", json={"inputs": batch.tolist()})
        return [p["certified_radius"] for p in answer.json()["predictions"]]

    with ThreadPoolExecutor(16) as pool:
        for batch, radii in zip(batches, pool.map(ask, batches), strict=True):
            assert radii == predictor.predict(batch).radii.certified_radius.tolist()


def test_a_batch_large_enough_for_a_thread_gets_the_same_answer(serve, monkeypatch):
    monkeypatch.setattr("service.inference.engine.INLINE_MULTIPLICATIONS", 0)
    inputs = np.random.default_rng(5).normal(size=(300, 16))
    answer = serve({"digits": digits()}).post("/v1/models/digits/predict", json={"inputs": inputs.tolist()})
    radii = [p["certified_radius"] for p in answer.json()["predictions"]]
    assert radii == CertifiedPredictor(digits()).predict(inputs).radii.certified_radius.tolist()


def test_portable_and_tighter_radii_on_request(serve):
    client = serve({"moons": two_moons()}, tighten_seconds=60)
    x = [[0.5, 0.25], [-1.0, 0.5]]
    plain, asked = (
        client.post("/v1/models/moons/predict", json={"inputs": x, **extra}).json()["predictions"]
        for extra in ({}, {"portable": True, "tighten": True})
    )
    predictor = CertifiedPredictor(two_moons())
    tightened = predictor.predict(x, tighten=True)
    for i in range(2):
        assert plain[i]["radius_float32_portable"] is None
        assert plain[i]["method"] == "lipschitz"
        assert asked[i]["radius_float32_portable"] == predictor.portable_radii(x)[i]
        assert (
            asked[i]["certified_radius"]
            == tightened.radii.certified_radius[i]
            >= plain[i]["certified_radius"]
        )
        assert asked[i]["method"] == tightened.tightening.method[i]


def test_a_radius_from_a_mixture_is_served(serve):
    content, _ = HEADS["reduce max of rows"]
    client = serve({"prototypes": content})
    x = np.random.default_rng(7).normal(size=(30, 5)).tolist()
    answer = client.post("/v1/models/prototypes/predict", json={"inputs": x, "tighten": True}).json()
    tightened = CertifiedPredictor(content).predict(x, tighten=True)
    told = [(p["certified_radius"], p["method"]) for p in answer["predictions"]]
    assert told == list(zip(tightened.radii.certified_radius, tightened.tightening.method, strict=True))
    assert "mixture" in {method for _, method in told}


def test_tightening_is_for_few_inputs_a_request(serve):
    client = serve({"moons": two_moons()}, max_tightened_rows=3)
    answer = client.post("/v1/models/moons/predict", json={"inputs": [[0.0, 0.0]] * 4, "tighten": True})
    assert answer.status_code == 422
    assert "at most 3" in answer.json()["detail"]
