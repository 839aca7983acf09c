"""Histograms of what was served, and the comparison with a reference."""

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Norm
from lipmodel.threat import BALLS
from service.models.policy import Policy
from service.models.registry import Model
from service.models.settings import ModelSettings
from service.problems import ProblemKind
from service.telemetry.drift import KEPT, Distribution, ServedRadii, kolmogorov_smirnov, share_below
from tests.service.conftest import digits, two_moons
from tests.service.test_bad_input import check
from tests.service.test_observed import samples

PREDICT = "/v1/models/two-moons/predict"
EVALUATIONS = "/v1/models/two-moons/evaluations"
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(400, 2)) * 2


@pytest.fixture
def client(serve):
    return serve({"two-moons": two_moons(), "digits": digits()})


def test_every_served_margin_and_radius_is_counted_in_its_bin(client):
    for part in (INPUTS[:1], INPUTS[1:100], INPUTS[100:]):
        client.post(PREDICT, json={"inputs": part.tolist(), "norm": "inf"})
    client.post(PREDICT, json={"inputs": INPUTS[:5].tolist(), "norm": "inf", "tighten": True})
    seen = samples(client)
    predictor = CertifiedPredictor(two_moons())
    radii = predictor.predict(INPUTS, Norm.INF).radii
    for name, values in [("margin", radii.margin), ("certified_radius", radii.certified_radius)]:
        for index, label in enumerate(predictor.class_names):
            mine = values[radii.label == index]
            labels = (("class", label), ("model", "two-moons"), ("norm", "inf"), ("version", "1"))
            assert seen[f"lipserve_{name}_count", labels] == len(mine) > 0
            assert seen[f"lipserve_{name}_sum", labels] == pytest.approx(mine.sum(), rel=1e-12)
            for end in ("0", "0.001", "0.05", "0.5", "1", "500", "+Inf"):
                bucket = tuple(sorted((*labels, ("le", end))))
                found = seen[f"lipserve_{name}_bucket", bucket]
                assert found == (mine <= float(end.replace("+Inf", "inf"))).sum()
    distributions = ("lipserve_margin", "lipserve_certified_radius")
    assert not any(("model", "digits") in labels for name, labels in seen if name.startswith(distributions))


def test_drift_is_seen(client):
    labels = [0] * len(INPUTS)
    url = client.post(
        EVALUATIONS, json={"inputs": INPUTS.tolist(), "labels": labels}, headers={"Prefer": "wait=60"}
    ).headers["content-location"]
    drift = f"/v1/models/two-moons/drift?evaluation={url.rsplit('/', 1)[1]}&epsilon=0.3"
    before = client.get(drift).json()
    assert before["served"] == {"count": 0, "share_below": None, "since": None}
    assert before["statistic"] is before["p_value"] is None
    same = RNG.normal(size=(400, 2)) * 2
    client.post(PREDICT, json={"inputs": same.tolist()})
    steady = client.get(drift).json()
    predictor = CertifiedPredictor(two_moons())
    served, reference = (predictor.predict(x).radii.certified_radius for x in (same, INPUTS))
    assert steady["statistic"] == pytest.approx(ks_2samp(served, reference).statistic, rel=1e-12)
    assert steady["p_value"] > 0.01
    assert steady["served"]["share_below"] == pytest.approx((served < 0.3).mean())
    assert steady["reference"] == {"count": 400, "share_below": pytest.approx((reference < 0.3).mean())}
    nearer = same[np.argsort(served)[:200]]  # inputs that lie towards the boundary
    for _ in range(5):
        client.post(PREDICT, json={"inputs": nearer.tolist()})
    moved = client.get(drift).json()
    assert moved["p_value"] < 1e-6
    assert moved["served"]["share_below"] > steady["served"]["share_below"]
    assert client.get(drift.replace("0.3", "0")).json()["epsilon"] == 0


def test_drift_is_measured_against_an_evaluation_of_the_same_file(client):
    audit = client.post("/v1/models/two-moons/audits", json={"samples": 5}, headers={"Prefer": "wait=60"})
    audit_id = audit.headers["content-location"].rsplit("/", 1)[1]
    body = {"inputs": [[0.0] * 16], "labels": [0]}
    other = client.post("/v1/models/digits/evaluations", json=body, headers={"Prefer": "wait=60"})
    other_id = other.headers["content-location"].rsplit("/", 1)[1]
    failed_url = client.post(
        EVALUATIONS, json={"inputs": [[0, 0]], "labels": [0]}, headers={"Prefer": "wait=0"}
    )
    client.delete(failed_url.headers["location"])
    failed_id = failed_url.json()["id"]
    drift = "/v1/models/two-moons/drift?evaluation="
    for unknown in ("nope", audit_id):
        check(client.get(drift + unknown), ProblemKind.UNKNOWN_JOB)
    check(client.get(drift + other_id), ProblemKind.INVALID_INPUT, "evaluation", "of another model")
    check(client.get(drift + failed_id), ProblemKind.INVALID_INPUT, "evaluation", "is cancelled")
    for query in (f"{drift}{other_id}&epsilon=-1", f"{drift}{other_id}&epsilon=nan", drift.partition("?")[0]):
        assert client.get(query).status_code == 422


values = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0, 2.0]) | st.floats(0, 10), min_size=1, max_size=60)


@given(values, values)
def test_the_statistic_is_the_largest_difference_of_distribution_functions(a, b):
    ours = kolmogorov_smirnov(np.array(a), np.array(b))
    naive = max(abs(sum(v <= x for v in a) / len(a) - sum(v <= x for v in b) / len(b)) for x in a + b)
    assert ours.statistic == pytest.approx(naive, abs=1e-12)
    assert 0.0 <= ours.p_value <= 1.0


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3, 0.6, 2.0])
@pytest.mark.parametrize("sizes", [(20, 30), (100, 150), (1000, 5000)])
def test_the_p_value_is_near_the_exact_one(shift, sizes):
    rng = np.random.default_rng(len(sizes) + int(10 * shift))
    a, b = rng.normal(size=sizes[0]), rng.normal(size=sizes[1]) + shift
    scipys = ks_2samp(a, b, method="exact" if sizes[1] < 1000 else "asymp")
    exact, ours = scipys.pvalue, kolmogorov_smirnov(a, b).p_value
    assert kolmogorov_smirnov(a, b).statistic == pytest.approx(scipys.statistic, rel=1e-12)
    assert ours == pytest.approx(exact, abs=0.03)
    assert (ours < 0.01) == (exact < 0.01) or 0.005 < exact < 0.02


def model_of(predictor, version="1"):
    return Model("m", version, predictor, 1, ModelSettings(Policy(BALLS[Norm.TWO])))


def test_the_latest_are_kept():
    predictor = CertifiedPredictor(two_moons())
    distribution = Distribution(model_of(predictor), Norm.TWO)
    assert len(distribution.latest) == 0
    assert distribution.since is None
    served = []
    for rows in (3, KEPT - 1, 700, KEPT + 5):
        radii = predictor.predict(RNG.normal(size=(rows, 2))).radii
        distribution.add(radii)
        served += radii.certified_radius.tolist()
        assert sorted(distribution.latest) == sorted(served[-KEPT:])


def test_another_file_under_the_name_begins_anew():
    served = ServedRadii()
    for content in (two_moons(), digits()):
        model = model_of(CertifiedPredictor(content))
        distribution = served.of(model, Norm.TWO)
        assert served.of(model, Norm.TWO) is distribution
        assert len(distribution.latest) == 0
        inputs = np.zeros((5, model.predictor.file.graph.input_size))
        distribution.add(model.predictor.predict(inputs, Norm.TWO).radii)
    assert [d.class_names for d in served] == [model.predictor.class_names]


def test_versions_are_distinguished_and_kept_no_longer_than_their_models():
    served = ServedRadii()
    first, second = (model_of(CertifiedPredictor(two_moons()), version) for version in "12")
    distribution = served.of(first, Norm.TWO)
    assert served.of(second, Norm.TWO) is not distribution
    assert served.of(first, Norm.TWO) is distribution
    del first
    gc.collect()
    assert [d.version for d in served] == ["2"]


def test_a_radius_of_zero_certifies_nothing():
    assert share_below(np.array([0.0, 0.0, 0.5, 1.0]), 0.0) == 0.5
    assert share_below(np.array([0.0, 0.0, 0.5, 1.0]), 0.5) == 0.5
    assert share_below(np.array([0.0, 0.0, 0.5, 1.0]), 0.6) == 0.75
