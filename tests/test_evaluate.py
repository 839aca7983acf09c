"""Accuracies, re-derived in a few lines."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.stream import in_memory
from lipmodel.errors import InputError
from lipmodel.evaluate import evaluate, wilson_interval
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from lipmodel.threat import Threat
from tests.networks import groupsort_net, to_file

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2300, 4)), RNG.integers(0, 3, size=2300)


@pytest.fixture
def predictor():
    return CertifiedPredictor(to_file(groupsort_net((4, 8), 3)))


@pytest.mark.parametrize("norm", list(Norm))
def test_rederived(predictor, norm):
    told = []
    result = evaluate(predictor, X, Y, norm, [0.1, 0.0, 1.58], told.append)
    radii = predictor.predict(X, norm).radii
    right = radii.label == Y
    assert result.clean_accuracy == right.mean()
    assert list(result.certified_accuracy) == ["0", "0.1", "1.58"]
    assert result.certified_accuracy["0.1"] == (right & (radii.certified_radius >= 0.1)).mean()
    assert result.average_certified_radius == pytest.approx((right * radii.certified_radius).mean())
    assert result.samples == 2300
    assert told[-1] == 1.0
    assert json.loads(json.dumps(result.to_dict()))["norm"] == norm.value


def test_rederived_for_a_scaled_threat_set(predictor):
    threat = Threat(Norm.INF, (0.1, 0.0, 2.0, 1.0))
    radii = predictor.predict(X, threat).radii
    right = radii.label == Y
    result = evaluate(predictor, X, Y, threat, [0.1, 0.5], attacked=40)
    assert result.certified_accuracy["0.1"] == (right & (radii.certified_radius >= 0.1)).mean()
    assert all(
        result.attacked_sample.attacked_accuracy[e] >= result.attacked_sample.certified_accuracy[e]
        for e in ("0.1", "0.5")
    )
    tried = ~np.isnan(result.distances)
    assert (result.distances[tried] > radii.certified_radius[tried]).all()
    told = json.loads(json.dumps(result.to_dict()))
    assert (told["norm"], told["scale"]) == ("inf", [0.1, 0.0, 2.0, 1.0])
    with pytest.raises(InputError, match="has 3 numbers; this model has 4 columns"):
        evaluate(predictor, X, Y, Threat(Norm.TWO, (1.0, 2.0, 3.0)))


def test_tightened_radii_count(predictor):
    x, y = X[:45], predictor.predict(X[:45]).radii.label
    slow = predictor.predict(x, Norm.TWO, tighten=True).radii.certified_radius
    told = []
    result = evaluate(predictor, x, y, Norm.TWO, [], told.append, tighten=True)
    assert result.average_certified_radius == pytest.approx(slow.mean(), rel=1e-12)
    assert result.average_certified_radius > evaluate(predictor, x, y, Norm.TWO).average_certified_radius
    assert result.to_dict()["tightened"]
    assert told == sorted(told)


def test_an_abstention_is_not_certified_at_zero(predictor):
    graph_tie = predictor.predict([[0.0] * 4])
    graph_tie = graph_tie._replace(radii=graph_tie.radii._replace(certified_radius=np.zeros(1)))
    predictor.predict = lambda *_, **__: graph_tie
    result = evaluate(predictor, [[0.0] * 4], [int(graph_tie.radii.label[0])], Norm.TWO, [0.0])
    assert result.clean_accuracy == 1.0
    assert result.certified_accuracy["0"] == 0.0


def test_nothing_right_is_zero(predictor):
    labels = (predictor.predict(X).radii.label + 1) % 3
    result = evaluate(predictor, X, labels, Norm.TWO, [0.1])
    assert result.clean_accuracy == result.average_certified_radius == 0.0
    assert set(result.certified_radius_quantiles.values()) == {0.0}


def test_the_curve_rederived_to_the_last_sample(predictor):
    """From scores and the proved constants alone; rounding is the only thing left out."""
    result = evaluate(predictor, X, Y, Norm.TWO)
    scores = predictor.predict(X, Norm.TWO).scores
    speed = predictor.bounds(Norm.TWO).bound_per_pair
    hits = np.zeros(len(result.curve["epsilon"]), dtype=int)
    for row, label in zip(scores, Y, strict=True):
        others = np.arange(3) != label
        radius = ((row[label] - row[others]) / speed[label, others]).min()
        hits += radius > np.array(result.curve["epsilon"]) * (1 + 1e-9)
    hits[-1] += 1  # the sample with the largest radius, which ends the curve
    assert (hits / len(Y)).tolist() == result.curve["certified_accuracy"]


def test_the_curve_is_the_certified_accuracy(predictor):
    curve = evaluate(predictor, X, Y, Norm.TWO).curve
    asked = evaluate(predictor, X, Y, Norm.TWO, curve["epsilon"]).certified_accuracy
    assert curve["certified_accuracy"] == list(asked.values())
    assert len(curve["epsilon"]) == 201
    assert curve["certified_accuracy"][-1] > 0.0


def test_each_class_is_an_evaluation_of_its_own_rows(predictor):
    result = evaluate(predictor, X[:500], Y[:500], Norm.TWO, [0.1], attacked=40)
    for k, part in enumerate(result.per_class.values()):
        mine = Y[:500] == k
        alone = evaluate(predictor, X[:500][mine], Y[:500][mine], Norm.TWO, [0.1])
        assert part.samples == mine.sum()
        assert part.clean_accuracy == alone.clean_accuracy
        assert part.certified_accuracy == alone.certified_accuracy
        assert part.clean_accuracy_interval == alone.clean_accuracy_interval
        assert part.average_certified_radius == pytest.approx(alone.average_certified_radius, rel=1e-12)
        robust = (result.correct & (result.distances > 0.1))[mine & np.isfinite(result.distances)]
        assert part.attacked_accuracy["0.1"] == robust.mean()
    assert sum(part.samples for part in result.per_class.values()) == 500


def test_attacked_accuracy_lies_between_certified_and_clean(predictor):
    x, y = X[:60], predictor.predict(X[:60]).radii.label
    result = evaluate(predictor, x, y, Norm.TWO, [0.01, 0.05, 0.1, 0.3], attacked=60)
    certified, attacked = result.certified_accuracy.values(), result.attacked_accuracy.values()
    assert all(c <= a <= result.clean_accuracy for c, a in zip(certified, attacked, strict=True))
    assert any(c < a for c, a in zip(certified, attacked, strict=True))
    assert (result.distances > result.radii).all()
    assert result.attacked_samples == 60


@pytest.fixture(scope="module")
def sorted_by_class():
    """400 rows, those of the smallest class first, of which the network is wrong about most."""
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 8), 3)))
    answers = predictor.predict(X[:400]).radii.label
    labels = np.where(RNG.uniform(size=400) < 0.7, answers, (answers + 1) % 3)
    order = np.argsort(labels, kind="stable")
    return predictor, X[:400][order], labels[order]


@pytest.mark.parametrize("attacked", [1, 50, 399, 400, 1000])
def test_the_inputs_attacked_are_a_sample_in_which_each_class_has_its_share(sorted_by_class, attacked):
    predictor, x, y = sorted_by_class
    result = evaluate(predictor, x, y, Norm.TWO, [0.1], attacked=attacked)
    tried = ~np.isnan(result.distances)
    taken = min(attacked, 400)
    assert tried.sum() == result.attacked_samples == taken
    for k in range(3):
        assert abs(tried[y == k].sum() - taken * (y == k).mean()) <= 1
    again = evaluate(predictor, x, y, Norm.TWO, [0.1], attacked=attacked)
    assert again.to_dict() == result.to_dict()


def test_certified_and_attacked_accuracy_stand_beside_each_other_of_the_same_inputs(sorted_by_class):
    predictor, x, y = sorted_by_class
    result = evaluate(predictor, x, y, Norm.TWO, [0.02, 0.1, 0.9], attacked=50)
    tried, sample = ~np.isnan(result.distances), result.attacked_sample
    alone = evaluate(predictor, x[tried], y[tried], Norm.TWO, [0.02, 0.1, 0.9])
    assert sample.samples == 50
    assert sample.clean_accuracy == alone.clean_accuracy
    assert sample.certified_accuracy == alone.certified_accuracy
    assert sample.attacked_accuracy == result.attacked_accuracy
    assert abs(sample.clean_accuracy - result.clean_accuracy) < 0.3
    for e, attacked in sample.attacked_accuracy.items():
        assert sample.certified_accuracy[e] <= attacked <= sample.clean_accuracy
    told = result.to_dict()["attacked_sample"]
    assert told == json.loads(json.dumps(told))
    assert evaluate(predictor, x, y).to_dict()["attacked_sample"] is None


def test_the_curves_of_the_inputs_attacked_are_their_accuracies(sorted_by_class):
    """To the largest epsilon asked for; below it nothing of another size is made up."""
    predictor, x, y = sorted_by_class
    largest = 3.0 * predictor.predict(x, Norm.TWO).radii.certified_radius.max()
    curve = evaluate(predictor, x, y, Norm.TWO, [largest], attacked=50).attacked_sample.curve
    grid = curve["epsilon"]
    assert (len(grid), grid[0], grid[-1]) == (201, 0.0, largest)
    asked = evaluate(predictor, x, y, Norm.TWO, grid, attacked=50).attacked_sample
    assert curve["certified_accuracy"] == list(asked.certified_accuracy.values())
    assert curve["attacked_accuracy"] == list(asked.attacked_accuracy.values())
    assert curve["attacked_accuracy"][0] == asked.clean_accuracy


def test_majority_share_is_the_share_of_the_most_common_class(sorted_by_class):
    predictor, x, y = sorted_by_class
    result = evaluate(predictor, x, y, Norm.TWO, [0.1])
    counts = np.bincount(y)
    assert result.majority_share == counts.max() / 400
    assert result.majority_class == predictor.class_names[counts.argmax()]
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    assert result.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(y, result.predictions))
    certified = np.where(result.radii >= 0.1, result.predictions, (y + 1) % 3)
    balanced = result.balanced_certified_accuracy["0.1"]
    assert balanced == pytest.approx(metrics.balanced_accuracy_score(y, certified))
    assert {"majority_share", "balanced_accuracy"} < set(result.summary())
    one_class = evaluate(predictor, x[:20], np.zeros(20, dtype=int), Norm.TWO)
    assert (one_class.majority_share, one_class.balanced_accuracy) == (1.0, one_class.clean_accuracy)


def test_inputs_far_outside_the_box_that_the_file_names_are_counted():
    claims = Claims(norm=Norm.TWO, input_box=(0.0, 1.0))
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 8), 3), claims))
    x = np.full((2300, 4), 2.0)
    assert evaluate(predictor, x, Y).warnings == ()
    x[::100, 3] = 2.1
    result = evaluate(predictor, x, Y)
    assert result.inputs_outside_box == 23
    assert "23 of 2300 inputs lie far outside the input range" in result.warnings[0]


@pytest.mark.parametrize(("hits", "samples"), [(0, 7), (7, 7), (3, 7), (961, 1000), (1, 10_000)])
def test_intervals_are_scipys(hits, samples):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(hits, samples).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits, samples) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_intervals_stand_beside_the_shares(predictor):
    result = evaluate(predictor, X, Y, Norm.TWO, [0.1], attacked=10)
    assert result.clean_accuracy_interval == wilson_interval(int(result.correct.sum()), len(Y))
    hits = round(result.attacked_accuracy["0.1"] * 10)
    assert result.attacked_accuracy_intervals["0.1"] == wilson_interval(hits, 10)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_a_stream_without_labels_is_refused(predictor):
    with pytest.raises(InputError, match="labels are missing"):
        evaluate(predictor, in_memory("inputs only", X))


def test_a_stream_gives_what_memory_gives_bit_for_bit(predictor, tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    whole = evaluate(predictor, X, Y, Norm.TWO, [0.1])
    for other in (
        evaluate(predictor, mapped, Y, Norm.TWO, [0.1]),
        evaluate(predictor, in_memory("mapped", mapped, Y), None, Norm.TWO, [0.1]),
    ):
        assert other.to_dict() == whole.to_dict()
        assert (other.radii == whole.radii).all()


def test_a_bad_number_is_named_by_its_row_in_the_whole(predictor):
    x = X.copy()
    x[1234, 2] = np.nan
    with pytest.raises(InputError) as caught:
        evaluate(predictor, x, Y)
    assert caught.value.field == "inputs[1234][2]"


def test_no_rows_are_refused(predictor):
    with pytest.raises(InputError, match="has no rows"):
        evaluate(predictor, np.empty((0, 4)), np.empty(0, dtype=int))


def test_a_negative_number_to_attack_is_refused(predictor):
    with pytest.raises(InputError) as caught:
        evaluate(predictor, X, Y, attacked=-1)
    assert caught.value.field == "attacked"


@pytest.mark.parametrize(
    ("labels", "epsilons", "field"),
    [
        (Y[:-1], [], "labels"),
        (Y.astype(float), [], "labels"),
        (Y + 1, [], "labels"),
        (Y - 1, [], "labels"),
        (Y, [-0.1], "epsilons"),
        (Y, [np.nan], "epsilons"),
        (Y, [np.inf], "epsilons"),
    ],
)
def test_bad_arguments_are_refused(predictor, labels, epsilons, field):
    with pytest.raises(InputError) as caught:
        evaluate(predictor, X, labels, Norm.TWO, epsilons)
    assert caught.value.field == field
