"""Attacks of foolbox: judged by the predictor, beside our own; and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lipmodel.audit.attack import nearest_changes, nearest_flips
from lipmodel.audit.foolbox_attacks import METHODS, attacked_by
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.report import audit
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError, MissingExtraError
from lipmodel.evaluate import evaluate
from lipmodel.norms import Norm
from tests.networks import groupsort_net, to_file

USABLE = [(name, norm) for name, norms in METHODS.items() for norm in norms]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(("method", "norm"), USABLE)
def test_changes_are_found_and_none_inside_its_radius(method, norm, classes):
    pytest.importorskip("foolbox", reason="foolbox is not installed: pip install 'lipcert[attacks]'")
    found = []
    for seed in range(3):  # of one network alone a method may find nothing
        predictor = CertifiedPredictor(to_file(groupsort_net((4, 16), classes, seed=seed)))
        engine, before = GradientEngine(predictor.file.graph), predictor.predict(X, norm).radii
        changed = attacked_by(method, engine, X, before.label, norm)
        found.append(predictor.predict(changed, norm).radii.label != before.label)
        own = nearest_flips(predictor, engine, X, norm)
        both = nearest_changes(predictor, engine, X, norm, methods=(method,))
        assert (both.distance <= own.distance).all()
        assert (both.distance > before.certified_radius).all()
        assert (predictor.predict(both.adversarial, norm).radii.label != before.label)[both.flipped].all()
    assert np.any(found)


def test_the_nearest_of_all_counts(monkeypatch):
    """A method that returns the change itself, and one that returns no change at all."""
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 16), 3)))
    engine = GradientEngine(predictor.file.graph)
    own = nearest_flips(predictor, engine, X, Norm.TWO)
    nearer = X + (own.adversarial - X) * (1.0 - 1e-9)
    flips = predictor.predict(nearer).radii.label != predictor.predict(X).radii.label
    assert flips.any()
    made = {"ddn": X, "fmn": nearer}
    monkeypatch.setattr("lipmodel.audit.attack.check_methods", lambda *_: None)
    monkeypatch.setattr("lipmodel.audit.attack.attacked_by", lambda method, *_: made[method])
    both = nearest_changes(predictor, engine, X, Norm.TWO, methods=("ddn", "fmn"))
    assert (both.distance < own.distance).tolist() == flips.tolist()


@pytest.mark.parametrize(("method", "norm"), [("ddn", Norm.ONE), ("deepfool", Norm.ONE), ("nope", Norm.TWO)])
def test_what_is_no_attack_in_the_norm_is_refused_before_any_work(method, norm):
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 8), 3)))
    for refused in (
        lambda: audit(predictor, norm=norm, samples=10, methods=(method,)),
        lambda: evaluate(predictor, X, np.zeros(12, int), norm, attacked=1, methods=(method,)),
    ):
        with pytest.raises(InputError, match=f"'{method}' is no attack in l{norm}; .*fmn are"):
            refused()


def test_without_foolbox_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lipcert\[attacks\]'"):
        audit(CertifiedPredictor(to_file(groupsort_net((4, 8), 3))), samples=10, methods=("fmn",))
