"""Other runtimes give the certified label: float32 wherever a portable radius is positive, float64 wherever a radius is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from lipmodel.norms import Norm, vector_norm
from lipmodel.threat import BALLS
from tests.networks import float32
from tests.soundness import nets, runtimes
from tests.soundness.rules import PORTABLE, SINGLE, Subject
from tests.soundness.suites import boundary

NETS = ("orthogonal 8-32-32-4", "relu 10-32-16-3", "residual 8", "conv 8x8", "prototypes 5x6")


def points_of(subject, rng):
    """Points at all distances from the boundary, from float32's own spacing to half of the data's spread."""
    x = np.repeat(boundary(subject, 50, rng, np.float32), 20, axis=0)
    step = rng.normal(size=x.shape)
    return float32(x + step * 10.0 ** rng.uniform(-8, -0.5, size=(len(x), 1)))


def every_program(subject):
    graph, content = subject.graph, subject.content
    levels = {level: runtimes.onnxruntime(content, graph, level) for level in runtimes.LEVELS}
    rows = {f"batches of {size}": runtimes.batches(levels["off"], size) for size in (1, 7, 1000)}
    return subject.programs | levels | rows | {"two threads": runtimes.onnxruntime(content, graph, threads=2)}


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("name", NETS)
def test_float32_runtimes_agree_within_portable_radii(name, norm):
    rng = np.random.default_rng(0)
    subject = Subject(nets.make(name).graph)
    x = points_of(subject, rng)
    answer, naive = PORTABLE.answer(subject, x, BALLS[norm]), SINGLE.answer(subject, x, BALLS[norm])
    certified = answer.radius > 0
    assert 0.2 < certified.mean() < 0.99
    step = rng.normal(size=x.shape)
    step /= vector_norm(step, norm)[:, None]
    inside = x + step * answer.radius[:, None] * (1 - 1e-9)  # doubles, which the runtimes round
    for program in every_program(subject).values():
        assert (program(x) == answer.label)[certified].all()
        assert (program(inside) == answer.label)[certified].all()
    disagree = [
        (program(x) != naive.label) & (naive.radius > 0) for program in every_program(subject).values()
    ]
    assert np.any(disagree)  # a float32 margin that is positive is no promise about other runtimes


@pytest.mark.parametrize("name", NETS)
def test_float64_runtimes_agree_within_served_radii(name):
    rng = np.random.default_rng(0)
    subject = Subject(nets.make(name).graph)
    x = points_of(subject, rng)
    radii = subject.predictor.predict(x, Norm.TWO).radii
    assert (radii.certified_radius > 0).mean() > 0.99
    step = rng.normal(size=x.shape)
    inside = x + step / vector_norm(step, Norm.TWO)[:, None] * radii.certified_radius[:, None] * (1 - 1e-9)
    for program, points in itertools.product(runtimes.float64_programs(subject.graph).values(), (x, inside)):
        assert (program(points) == radii.label)[radii.certified_radius > 0].all()


@pytest.mark.parametrize("threads", [1, 2])
def test_number_of_blas_threads_does_not_matter(threads):
    """A product large enough to be shared among threads, which sum in an order of their own."""
    rng = np.random.default_rng(1)
    graph = nets.relu_net(rng, widths=(256, 256, 256), classes=10)
    subject = Subject(graph)
    x = float32(rng.normal(size=(300, 256)))
    label, portable = (
        subject.predictor.predict(x, Norm.TWO).radii.label,
        subject.predictor.portable_radii(x, Norm.TWO),
    )
    with threadpool_limits(threads):
        seen = runtimes.program(graph, runtimes.numpy_matmul)(x)
    assert (portable > 0).mean() > 0.9
    assert (seen == label)[portable > 0].all()
