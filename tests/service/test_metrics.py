"""Sums over processes: nothing is counted twice, nothing goes back."""

import json

import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Norm
from lipmodel.threat import BALLS
from service.models.policy import Policy
from service.models.registry import Model
from service.models.settings import ModelSettings
from service.telemetry.metrics import Histogram, Metrics, exposition, total
from service.telemetry.multiprocess import STALE_SECONDS, SharedMetrics
from tests.service.conftest import two_moons


@pytest.fixture
def metrics():
    return [Metrics() for _ in range(3)]


def requests(shared):
    return shared.total()["lipserve_requests"].get(("r", "GET", "200"), [0.0])[0]


def test_a_value_on_an_edge_is_below_it():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.numbers() == [2.0, 2.0, 1.0, 7.5]


def test_a_sum_over_none_and_over_unlike_snapshots():
    assert total([]) == {}
    a = {"x": {("1",): [1.0, 2.0]}, "y": {(): [1.0]}}
    b = {"x": {("1",): [10.0, 20.0], ("2",): [5.0, 5.0]}}
    assert total([a, b]) == {"x": {("1",): [11.0, 22.0], ("2",): [5.0, 5.0]}, "y": {(): [1.0]}}
    assert total([a, {"y": {(): [1.0, 2.0]}}])["y"] == {(): [1.0, 2.0]}  # of another release


def test_every_worker_reports_the_sum(metrics, tmp_path):
    shared = [SharedMetrics(m, tmp_path, i) for i, m in enumerate(metrics)]
    for count, (one, m) in enumerate(zip(shared, metrics, strict=True), 1):
        m.requests.of("r", "GET", "200").add(count)
        m.in_flight.value = 1.0
        one.write()
    assert [requests(one) for one in shared] == [6.0, 6.0, 6.0]
    metrics[0].requests.of("r", "GET", "200").add(10)  # its own at once, the others' a second later
    assert [requests(one) for one in shared] == [16.0, 6.0, 6.0]
    assert shared[1].total()["lipserve_in_flight_requests"] == {(): [3.0]}
    assert shared[1].total()["lipserve_workers"] == {(): [3.0]}


def test_a_worker_in_anothers_place_goes_on_from_its_counts(metrics, tmp_path):
    dead, survivor = SharedMetrics(metrics[0], tmp_path, 0), SharedMetrics(metrics[1], tmp_path, 1)
    metrics[0].requests.of("r", "GET", "200").add(5)
    metrics[0].in_flight.value = 4.0
    dead.write()
    again = SharedMetrics(metrics[2], tmp_path, 0)
    metrics[2].requests.of("r", "GET", "200").add(1)
    assert requests(again) == 6.0
    assert again.total()["lipserve_in_flight_requests"] == {(): [0.0]}
    again.write()
    again.write()
    assert requests(survivor) == 6.0


def test_a_silent_worker_counts_but_is_not_there(metrics, tmp_path):
    silent, other = SharedMetrics(metrics[0], tmp_path, 0), SharedMetrics(metrics[1], tmp_path, 1)
    metrics[0].requests.of("r", "GET", "200").add(5)
    silent.write()
    path = tmp_path / "0.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"time": kept["time"] - 2 * STALE_SECONDS}))
    assert requests(other) == 5.0
    assert other.total()["lipserve_workers"] == {(): [1.0]}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"time": 0, "metrics": 1}', '{"time": "x", "metrics": {}}']
)
def test_a_file_that_cannot_be_read_is_none(metrics, tmp_path, content):
    (tmp_path / "1.json").write_text(content)
    assert requests(SharedMetrics(metrics[0], tmp_path, 0)) == 0.0


def test_distributions_are_summed_like_counts(metrics, tmp_path):
    predictor = CertifiedPredictor(two_moons())
    model = Model("m", "1", predictor, 1, ModelSettings(Policy(BALLS[Norm.TWO])))
    radii = predictor.predict([[0.5, 0.25]] * 3, Norm.TWO).radii
    shared = [SharedMetrics(m, tmp_path, i) for i, m in enumerate(metrics[:2])]
    for one, m in zip(shared, metrics, strict=False):
        m.served_radii.of(model, Norm.TWO).add(radii)
        one.write()
    text = exposition(metrics[0].descriptions(), shared[0].total()).decode()
    label = predictor.class_names[radii.label[0]]
    assert f'lipserve_margin_count{{class="{label}",model="m",norm="2",version="1"}} 6.0' in text


def test_a_disk_that_is_full_ends_nothing(metrics, tmp_path):
    shared = SharedMetrics(metrics[0], tmp_path / "m", 0)
    (tmp_path / "m").rmdir()
    shared.write()
    assert requests(shared) == 0.0
