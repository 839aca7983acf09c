"""One input has one label in an execution, whichever tier answers; and radii are about that execution."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import UnsupportedError
from lipmodel.norms import Norm, vector_norm
from lipmodel.signed.answers import answers
from tests.certify.test_graph import WEIGHTS, model, n
from tests.certify.test_head import HEADS
from tests.networks import groupsort_net, to_file
from tests.soundness import runtimes

EXECUTIONS = (np.float64, np.float32)
FILES = {
    "groupsort": to_file(groupsort_net((4, 16, 16), 3, seed=2)),
    "binary": to_file(groupsort_net((2, 16, 16), 1)),
    "prototypes": HEADS["reduce max of rows"][0],
    "float64 weights": to_file(groupsort_net((4, 16, 16), 3, seed=2), dtype=np.float64),
}
CAST = model(
    [n("Cast", "x", "x64", to=TensorProto.DOUBLE), n("Gemm", ["x64", "W", "c"], "a", transB=1),
     n("Relu", "a", "z"), n("MatMul", ["z", "Ht"], "y")],
    {name: (value / 3.0).astype(np.float64) for name, value in WEIGHTS.items()}, output_type=TensorProto.DOUBLE,
)  # fmt: skip


STEPS = (0, 10, 13, 16, 18, 20, 22, 24, 26, 28, 49)
"""Of a bisection, the steps looked at: mostly where float32 may give another label than float64."""


def near_boundaries(predictor, count=2):
    """Points of bisections between two labels: from far apart down to neighbouring doubles."""
    rng, points = np.random.default_rng(7), []
    size = predictor.file.graph.input_size
    while len(points) < count * len(STEPS):
        near, far = rng.normal(size=(2, size))
        if np.ptp(predictor.predict([near, far]).radii.label):
            for step in range(max(STEPS) + 1):
                middle = 0.5 * (near + far)
                points += [middle] if step in STEPS else []
                moved = np.ptp(predictor.predict([near, middle]).radii.label)
                near, far = (near, middle) if moved else (middle, far)
    return np.array(points)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", FILES)
def test_every_tier_gives_the_same_label(name, execution):
    """Plain, alone, tightened and signed; and where the portable radius is positive, it is of that label."""
    predictor = CertifiedPredictor(FILES[name]).executing(execution)
    if name == "float64 weights" and execution is np.float32:
        with pytest.raises(UnsupportedError, match="computes in float32"):
            predictor.predict(np.zeros((1, 4)))
        return
    x = near_boundaries(predictor, 1)
    for norm in Norm:
        plain = predictor.predict(x, norm)
        label, radius = plain.radii.label, plain.radii.certified_radius
        assert plain.execution is execution
        assert [int(predictor.predict(row[None], norm).radii.label[0]) for row in x] == label.tolist()
        tightened = predictor.predict(x, norm, tighten=True)
        assert tightened.execution is execution
        assert (tightened.raw_scores == plain.raw_scores).all()
        assert (tightened.radii.label == label).all()
        assert (tightened.radii.certified_radius >= radius).all()
        for answer, own in zip(answers(predictor, x, tightened), label, strict=True):
            assert (answer.execution, answer.label_index) == (execution.__name__, own)
        in_float32 = predictor.predict(x, norm, execution=np.float32) if name != "float64 weights" else plain
        portable = predictor.portable_radii(x, norm)
        assert (in_float32.radii.label == label)[portable > 0].all()
        assert 0 < (portable > 0).sum() < len(x)


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("name", ["groupsort", "prototypes"])
def test_tightened_radii_of_float32_hold_in_float32(name, norm):
    """Of every float32 program, a step of the whole radius along the line to the boundary."""
    predictor = CertifiedPredictor(FILES[name]).executing(np.float32)
    x = near_boundaries(predictor)
    found = predictor.predict(x, norm, tighten=True).radii
    assert 0 < (found.certified_radius > 0).sum() < len(x)
    programs = runtimes.programs(predictor.file.graph, FILES[name])
    for other in x[::4]:
        step = other - x
        length = np.maximum(vector_norm(step, norm), 1e-300)
        moved = x + step * (found.certified_radius / length * (1 - 1e-6))[:, None]
        certified = found.certified_radius > 0
        for program in programs.values():
            assert (program(moved) == found.label)[certified].all()


def test_weights_behind_a_cast_are_not_executed_in_float32():
    predictor = CertifiedPredictor(CAST)
    assert (predictor.file.dtype, predictor.file.score_dtype) == (np.float32, np.float64)
    assert predictor.predict(np.ones((1, 4))).radii.certified_radius[0] > 0
    with pytest.raises(UnsupportedError, match="computes in float32 throughout"):
        predictor.predict(np.ones((1, 4)), execution=np.float32)


def test_a_cast_to_the_same_format_is_executed_in_float32():
    cast = [n("Cast", "x", "x32", to=TensorProto.FLOAT), n("Gemm", ["x32", "W", "c"], "a", transB=1)]
    predictor = CertifiedPredictor(
        model([*cast, n("Relu", "a", "z"), n("MatMul", ["z", "Ht"], "y")], WEIGHTS)
    )
    assert predictor.predict(np.ones((1, 4)), execution=np.float32).radii.certified_radius[0] > 0


@pytest.mark.parametrize("norm", list(Norm))
def test_a_float64_file_pays_nothing_for_inputs_that_nobody_rounds(norm):
    predictor = CertifiedPredictor(FILES["float64 weights"])
    x = np.random.default_rng(0).normal(size=(20, 4)) * 1e3
    assert (predictor.portable_radii(x, norm) == predictor.predict(x, norm).radii.certified_radius).all()
