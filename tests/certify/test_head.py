"""Heads: what is taken for the linear end, and several scores a class."""

from __future__ import annotations

import numpy as np
import pytest

from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.descent import ProjectedGradientDescent
from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify.head import linear_head
from lipmodel.certify.lipschitz import bound_lipschitz
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.network import ops
from lipmodel.network.ops import Graph
from lipmodel.network.reader.read import read_onnx
from lipmodel.network.writer import to_bytes, write_model
from lipmodel.norms import Norm, bound_pairwise_distances, vector_norm
from lipmodel.threat import BALLS
from tests.certify.test_graph import ints, model, n
from tests.networks import dense, float32, groupsort_net, linear_net

RNG = np.random.default_rng(3)
P = RNG.normal(size=(12, 5)).astype(np.float32)  # 12 prototypes of 5 numbers, 3 classes of 4
B = (-0.5 * (P**2).sum(axis=1)).astype(np.float32)
SCORES = [n("Gemm", ["x", "P", "b"], "s", transB=1)]
WEIGHTS = {"P": P, "b": B}
BY_CLASS = np.repeat(np.arange(3), 4)
INTERLEAVED = np.tile(np.arange(3), 4)

HEADS = {
    "reduce max of rows": (
        model(
            [*SCORES, n("Reshape", ["s", "t"], "r"), n("ReduceMax", ["r", "a"], "y", keepdims=0)],
            {**WEIGHTS, "t": ints(-1, 3, 4), "a": ints(2)}, shape=("N", 5),
        ), BY_CLASS,
    ),
    "reduce max of columns": (
        model(
            [*SCORES, n("Reshape", ["s", "t"], "r"), n("ReduceMax", ["r", "a"], "y", keepdims=0)],
            {**WEIGHTS, "t": ints(-1, 4, 3), "a": ints(1)}, shape=("N", 5),
        ), INTERLEAVED,
    ),
    "kept axis and flatten": (
        model(
            [*SCORES, n("Reshape", ["s", "t"], "r"), n("ReduceMax", ["r", "a"], "k"), n("Flatten", "k", "y")],
            {**WEIGHTS, "t": ints(0, 3, 4), "a": ints(-1)}, shape=("N", 5),
        ), BY_CLASS,
    ),
    "topk of one": (
        model(
            [*SCORES, n("Reshape", ["s", "t"], "r"), n("TopK", ["r", "1"], ["k", "i"]), n("Squeeze", ["k", "a"], "y")],
            {**WEIGHTS, "t": ints(0, 3, 4), "a": ints(2), "1": ints(1)}, shape=("N", 5),
        ), BY_CLASS,
    ),
    "transposed": (
        model(
            [*SCORES, n("Reshape", ["s", "t"], "r"), n("Transpose", "r", "q", perm=[0, 2, 1]),
             n("ReduceMax", ["q", "a"], "y", keepdims=0)],
            {**WEIGHTS, "t": ints(-1, 4, 3), "a": ints(2)}, shape=("N", 5),
        ), INTERLEAVED,
    ),
    "max of slices": (
        model(
            [*SCORES, n("Split", ["s", "sizes"], ["p", "q", "r", "t"], axis=1), n("Max", ["p", "q", "r", "t"])],
            {**WEIGHTS, "sizes": ints(3, 3, 3, 3)}, shape=("N", 5),
        ), INTERLEAVED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_owners_are_found(name):
    content, owners = HEADS[name]
    head = linear_head(read_onnx(content).graph)
    assert head.owners.tolist() == owners.tolist()
    assert (head.rows == P).all()
    assert head.body.output == "x"
    assert head.classes == 3


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("name", HEADS)
def test_radius_is_that_of_the_nearest_foreign_prototype(name, norm):
    """Re-derived: the largest own score against every foreign one, each with its own constant."""
    content, owners = HEADS[name]
    predictor = CertifiedPredictor(content)
    x = RNG.normal(size=(40, 5))
    result = predictor.predict(x, norm)
    scores = x @ P.T.astype(float) + B
    for i, row in enumerate(scores):
        best = row.argmax()
        others = np.flatnonzero(owners != owners[best])
        gaps = (row[best] - row[others]) / vector_norm(P[best].astype(float) - P[others], norm.dual)
        assert result.radii.label[i] == owners[best]
        assert result.radii.certified_radius[i] == pytest.approx(gaps.min(), rel=1e-9)
        assert result.radii.certified_radius[i] < gaps.min()
        assert result.radii.runner_up[i] == owners[others[gaps.argmin()]]
        classes = [row[owners == k].max() for k in range(3)]
        assert result.scores[i] == pytest.approx(classes)


def test_radius_of_prototypes_holds_and_is_tight():
    predictor = CertifiedPredictor(HEADS["reduce max of rows"][0])
    x = RNG.normal(size=(200, 5))
    radius = predictor.predict(x, Norm.TWO).radii.certified_radius
    task = AttackTask(predictor, GradientEngine(predictor.file.graph), x, BALLS[Norm.TWO])
    assert not ProjectedGradientDescent(radius)(task).flipped.any()
    assert ProjectedGradientDescent(radius * 1.5)(task).flipped.mean() > 0.5


def test_class_pairs_cover_their_prototypes():
    bounds = bound_lipschitz(read_onnx(HEADS["max of slices"][0]).graph, Norm.TWO)
    distance = vector_norm(P[:, None].astype(float) - P[None], Norm.TWO)
    expected = distance[INTERLEAVED == 0][:, INTERLEAVED == 1].max()
    assert bounds.bound_per_pair.shape == (3, 3)
    assert bounds.bound_per_pair[0, 1] == pytest.approx(expected)


def test_overlapping_slices_are_no_prototypes():
    content = model(
        [*SCORES, n("Slice", ["s", "0", "6", "1"], "p"), n("Slice", ["s", "3", "9", "1"], "q"), n("Max", ["p", "q"])],
        {**WEIGHTS, "0": ints(0), "1": ints(1), "3": ints(3), "6": ints(6), "9": ints(9)}, shape=("N", 5),
    )  # fmt: skip
    assert linear_head(read_onnx(content).graph).scores == "y"


def test_scores_left_out_of_every_class_do_not_count():
    content = model(
        [*SCORES, n("Slice", ["s", "0", "3", "1"], "p"), n("Slice", ["s", "3", "6", "1"], "q"), n("Max", ["p", "q"])],
        {**WEIGHTS, "0": ints(0), "1": ints(1), "3": ints(3), "6": ints(6)}, shape=("N", 5),
    )  # fmt: skip
    predictor = CertifiedPredictor(content)
    assert predictor.head.owners.tolist() == [0, 1, 2, 0, 1, 2, *[-1] * 6]
    assert (predictor.predict(RNG.normal(size=(50, 5))).radii.certified_radius > 0).all()


@pytest.mark.parametrize("sizes", [(2, 2, 2), (12,)])
def test_binary_prototypes_answer_the_sign_of_the_largest(sizes):
    content = model([*SCORES, n("ReduceMax", ["s", "a"], "y")], {**WEIGHTS, "a": ints(1)}, shape=("N", 5))
    predictor = CertifiedPredictor(content)
    x = RNG.normal(size=(60, 5)) * 3
    result = predictor.predict(x)
    assert result.scores.shape == (60, 1)
    assert (result.radii.label == (result.scores[:, 0] > 0)).all()
    assert len(sizes) in (1, 3)


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("count", [3, 100])
def test_pairwise_distances(norm, count):
    rows = float32(RNG.normal(size=(count, 7)))
    plain = vector_norm(rows[:, None] - rows[None], norm)
    bound = bound_pairwise_distances(rows, norm)
    assert (bound >= plain * (1 - 1e-15)).all()
    assert np.allclose(bound, plain, rtol=1e-9)
    assert (np.diagonal(bound) == 0).all()


def test_many_equal_rows_stay_bounded():
    rows = np.repeat(float32(RNG.normal(size=(1, 50))), 100, axis=0)
    assert bound_pairwise_distances(rows, Norm.TWO).max() < 1e-4


def test_plain_nets_own_their_scores_one_by_one():
    head = linear_head(groupsort_net((4, 8), 3))
    assert head.owners.tolist() == [0, 1, 2]
    assert head.body.output == "z0"
    assert linear_head(linear_net([[1.0, 2.0]])).rows.tolist() == [[0.0, 0.0], [1.0, 2.0]]


def test_factors_that_underflow_together_do_not_vanish_from_the_head():
    """1e200 · 1e-200 · 1e-200 taken from the end is 0 in float64, though no tensor on the way is."""

    def scale(output, x, factor):
        return ops.Scale(output=output, inputs=(x,), shape=(2,), factor=np.array(factor))

    graph = Graph(
        input="input",
        input_shape=(2,),
        ops=(
            dense("a", "input", np.eye(2)),
            scale("b", "a", 1e200),
            scale("c", "b", 1e-200),
            scale("d", "c", 1e-200),
        ),
        output="d",
    )
    predictor = CertifiedPredictor(to_bytes(write_model(graph, np.float64)))
    radius = predictor.predict([[1.0, 0.5]], Norm.TWO).radii.certified_radius[0]
    assert 0 <= radius <= 0.5 / 2**0.5
    assert bound_lipschitz(graph, Norm.TWO).bound_per_pair[0, 1] >= 2**0.5 * 1e-200
