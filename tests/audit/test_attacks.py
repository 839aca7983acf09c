"""Every attack of the registry: judged by the predictor, never inside a radius; and the refusals."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.foolbox_attacks import FoolboxAttack
from lipmodel.audit.attacks.registry import ATTACKS, BUILT_IN, METHODS, attack_radii, find_nearest
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.report import audit
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError, MissingExtraError
from lipmodel.evaluate import evaluate
from lipmodel.norms import Norm
from lipmodel.progress import silent
from lipmodel.threat import BALLS, Threat
from tests.networks import groupsort_net, to_file

USABLE = [(name, norm) for name, attack in ATTACKS.items() for norm in attack.norms]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4))


def task(classes=3, norm=Norm.TWO, seed=0):
    """The inputs X with a small network that labels them."""
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 16), classes, seed=seed)))
    return AttackTask(predictor, GradientEngine(predictor.file.graph), X, BALLS[norm])


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(("method", "norm"), USABLE)
def test_changes_are_found_and_none_inside_its_radius(method, norm, classes):
    if isinstance(ATTACKS[method], FoolboxAttack):
        pytest.importorskip("foolbox", reason="foolbox is not installed: pip install 'lipcert[attacks]'")
    found = []
    for seed in range(3):  # of one network alone a method may find nothing
        problem = task(classes, norm, seed)
        before = problem.predictor.predict(X, norm).radii
        alone = ATTACKS[method](problem, silent)
        after = problem.predictor.predict(alone.adversarial, norm).radii
        assert (alone.flipped == (after.label != before.label)).all()
        assert (alone.adversarial[~alone.flipped] == X[~alone.flipped]).all()
        found.append(alone.flipped)
        both = find_nearest(problem, () if method == BUILT_IN else (method,))
        assert (both.distance <= alone.distance).all()
        assert (both.distance <= find_nearest(problem).distance).all()
        assert (both.distance > before.certified_radius).all()
        assert problem.changed(both.adversarial)[both.flipped].all()
    assert np.any(found)


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("classes", [1, 3])
def test_attacks_stay_in_a_scaled_threat_set_and_outside_its_radii(norm, classes):
    threat = Threat(norm, (0.01, 0.0, 3.0, 1.0))
    problem = replace(task(classes, norm), threat=threat)
    radius = problem.predictor.predict(X, threat).radii.certified_radius
    found = attack_radii(problem, radius)
    assert found.flipped.any()
    assert (found.adversarial[:, 1] == X[:, 1]).all()  # the frozen column
    assert (found.distance > radius).all()
    change = (found.adversarial - X)[:, [0, 2, 3]] / np.array([0.01, 3.0, 1.0])
    order = {"1": 1, "2": 2, "inf": np.inf}[norm.value]
    distance = np.where(found.flipped, np.linalg.norm(change, order, axis=1), np.inf)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-12)
    assert (found.distance >= distance).all()
    # As strong as a search along many directions in units of the scale, in which the ball is round.
    directions = RNG.normal(size=(400, 4)) if norm is not Norm.INF else np.sign(RNG.normal(size=(400, 4)))
    if norm is Norm.ONE:
        directions[:6] = np.vstack([np.eye(4)[[0, 2, 3]], -np.eye(4)[[0, 2, 3]]])
    directions[:, 1] = 0.0
    directions /= np.linalg.norm(directions, order, axis=1, keepdims=True)
    for x, nearest in zip(X[found.flipped][:4], found.distance[found.flipped][:4], strict=True):
        label = problem.predictor.predict(x[None]).radii.label
        for size in np.linspace(0.05, 0.9, 10) * nearest:
            points = x + size * directions * np.array(threat.scale)
            assert (problem.predictor.predict(points).radii.label == label).all()


def test_attacks_that_search_balls_are_refused_for_a_scaled_threat_set():
    with pytest.raises(InputError, match="'fmn' searches balls"):
        find_nearest(replace(task(), threat=Threat(Norm.TWO, (1.0, 0.0, 1.0, 1.0))), ("fmn",))


def test_the_nearest_of_all_counts(monkeypatch):
    """One attack returns a nearer change, another one no change at all."""
    problem = task()
    own = find_nearest(problem)
    nearer = X + (own.adversarial - X) * (1.0 - 1e-9)
    flips = problem.changed(nearer)
    assert flips.any()

    class Given:
        norms = (Norm.TWO,)

        def __init__(self, points):
            self.points = points

        def require(self):
            pass

        def __call__(self, task, progress):
            return task.judge(self.points)

    monkeypatch.setitem(ATTACKS, "ddn", Given(X))
    monkeypatch.setitem(ATTACKS, "fmn", Given(nearer))
    both = find_nearest(problem, ("ddn", "fmn"))
    assert (both.distance < own.distance).tolist() == flips.tolist()


def test_progress_is_the_share_of_all_attacks(monkeypatch):
    for name in ("ddn", "fmn"):
        monkeypatch.setitem(ATTACKS, name, ATTACKS[BUILT_IN])
    shares = []
    find_nearest(task(), ("ddn", "fmn"), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("method", "norm"), [("ddn", Norm.ONE), ("deepfool", Norm.ONE), ("nope", Norm.TWO), (BUILT_IN, Norm.TWO)]
)
def test_an_attack_that_does_not_work_in_the_norm_is_refused_before_any_work(method, norm):
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 8), 3)))
    usable = ", ".join(name for name in METHODS if norm in ATTACKS[name].norms)
    for refused in (
        lambda: audit(predictor, norm=norm, samples=10, methods=(method,)),
        lambda: evaluate(predictor, X, np.zeros(12, int), norm, attacked=1, methods=(method,)),
    ):
        with pytest.raises(
            InputError, match=f"'{method}' is not available in l{norm}; choose from {usable}$"
        ):
            refused()


def test_without_foolbox_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lipcert\[attacks\]'"):
        audit(CertifiedPredictor(to_file(groupsort_net((4, 8), 3))), samples=10, methods=("fmn",))


def test_the_methods_of_the_command_are_those_of_the_registry_but_the_built_in_one():
    assert BUILT_IN not in METHODS
    assert {"deepfool", "ddn", "fmn"} <= set(METHODS) == ATTACKS.keys() - {BUILT_IN}
