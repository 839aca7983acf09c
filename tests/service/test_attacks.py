"""The nearest change of label, found while the client waits."""

import numpy as np
import pytest

from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.registry import attack_radii
from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.deadline import Deadline
from lipmodel.norms import Norm, vector_norm
from lipmodel.threat import BALLS
from service.inference import attack_search as attacker
from service.inference.fair_pool import FairPool
from service.models.registry import Model
from service.problems import ProblemKind
from tests.networks import linear_net, to_file
from tests.service.conftest import two_moons
from tests.service.test_bad_input import JSON, check

ATTACKS = "/v1/models/two-moons/attacks"
X = np.random.default_rng(3).normal(size=(5, 2))


@pytest.mark.parametrize("norm", Norm)
def test_findings_equal_those_of_an_audit_and_have_the_label_given(client, norm):
    answer = client.post(ATTACKS, json={"inputs": X.tolist(), "norm": norm.value})
    assert answer.status_code == 200
    told = answer.json()
    assert told["norm"] == norm.value
    predictor = CertifiedPredictor(two_moons())
    radii = predictor.predict(X, norm).radii
    task = AttackTask(predictor, GradientEngine(predictor.file.graph), X, BALLS[norm])
    expected = attack_radii(task, radii.certified_radius)
    for row, finding in enumerate(told["findings"]):
        assert finding["certified_radius"] == radii.certified_radius[row]
        assert finding["label"] == predictor.class_names[radii.label[row]]
        assert finding["found"]
        assert not finding["refuted"]
        assert finding["adversarial"] == expected.adversarial[row].tolist()
        assert finding["distance"] == expected.distance[row] > finding["certified_radius"]
        away = vector_norm(np.array(finding["adversarial"]) - X[row], norm)
        assert away == pytest.approx(finding["distance"], rel=1e-9)
        again = client.post(
            "/v1/models/two-moons/predict", json={"inputs": [finding["adversarial"]], "norm": norm.value}
        ).json()["predictions"][0]
        assert again["label"] == finding["adversarial_label"] != finding["label"]


def test_the_norm_is_the_models_own_by_default(client):
    assert client.post(ATTACKS, json={"inputs": [[0.5, 0.25]]}).json()["norm"] == "2"


def test_nothing_found_is_said(serve):
    constant = to_file(linear_net(np.zeros((2, 2)), np.array([1.0, 0.0])))
    finding = (
        serve({"m": constant}).post("/v1/models/m/attacks", json={"inputs": [[0, 0]]}).json()["findings"][0]
    )
    assert not finding["found"]
    assert not finding["refuted"]
    assert [finding[key] for key in ("adversarial", "adversarial_label", "distance")] == [None] * 3


def test_a_change_within_the_radius_refutes_it(serve, monkeypatch):
    """A radius that is wrong by a factor of two, as from a fault in a bound, is shown to be."""
    honest = CertifiedPredictor.predict

    def twice(self, *arguments, **options):
        found = honest(self, *arguments, **options)
        radii = found.radii._replace(certified_radius=2 * found.radii.certified_radius)
        return found._replace(radii=radii)

    monkeypatch.setattr(CertifiedPredictor, "predict", twice)
    client = serve({"m": to_file(linear_net(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.zeros(2)))})
    finding = client.post("/v1/models/m/attacks", json={"inputs": [[1.0, 0.0]]}).json()["findings"][0]
    assert finding["refuted"]
    assert finding["distance"] < finding["certified_radius"]


BAD = {
    "no rows": ('{"inputs": []}', "inputs", "is empty"),
    "short": ('{"inputs": [[1]]}', "inputs[0]", "has 1 value; this model expects 2"),
    "huge": ('{"inputs": [[1e39, 0]]}', "inputs[0][0]", "float32"),
    "norm": ('{"inputs": [[1, 2]], "norm": "3"}', "norm", "'1', '2' or 'inf'"),
    "unknown": ('{"inputs": [[1, 2]], "steps": 5}', "steps", "is not a known field"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_reported(client, case):
    body, field, reason = BAD[case]
    check(client.post(ATTACKS, content=body, headers=JSON), ProblemKind.INVALID_INPUT, field, reason)


def test_slow_attacks_are_left_to_audits(client, monkeypatch):
    monkeypatch.setattr(attacker, "MAX_MULTIPLICATIONS", attacker.PASSES * 1000)
    answer = client.post(ATTACKS, json={"inputs": X.tolist()})
    check(answer, ProblemKind.INVALID_INPUT, "inputs", "an audit accepts more")


def test_a_model_that_is_gone_is_not_held(client):
    held = attacker.AttackSearch(FairPool("slow", 1, queued=1, queued_per_caller=1))
    model = Model("m", "1", CertifiedPredictor(two_moons()), 1, None)
    held._attack(model.predictor, X, Norm.TWO, Deadline())
    assert len(held._engines) == 1
    del model
    assert not held._engines
