"""Radius and constants against worst cases known exactly: what no attack would notice.

Results are compared with the formulas of the certificate in rationals, from below *and* above.
"""

from __future__ import annotations

from fractions import Fraction
from unittest import mock

import numpy as np
import pytest

from lipmodel.certify.head import linear_head
from lipmodel.certify.lipschitz import LipschitzBounds, bound_lipschitz
from lipmodel.certify.norms import convolution
from lipmodel.certify.norms.convolution import bound_conv_norm, bound_gram_iteration
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.radius import RadiusRule, after_rounding_inputs, bound_input_rounding
from lipmodel.certify.rounding import Affine, RoundingBounds
from lipmodel.errors import UnsupportedError
from lipmodel.network import ops
from lipmodel.network.window import Window
from lipmodel.norms import Norm, bound_equivalence, bound_spectral_norm, gamma
from lipmodel.threat import BALLS
from tests.exact import bounds_spectral_norm, operator_norm, rational
from tests.networks import dense, float32, linear_net, to_file
from tests.soundness import integers, nets, runtimes

NORMS = list(Norm)


# --- the radius ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "q"), [(Norm.TWO, Norm.TWO), (Norm.ONE, Norm.TWO), (Norm.INF, Norm.INF), (Norm.INF, Norm.TWO)]
)
@pytest.mark.parametrize("d", [1, 16])
def test_radius_is_the_formula(p, q, d):
    """Given A, B, L: runtimes that err by E one way at x and the other way at x' agree up to (m-2E)/(L+κB).

    From that the caller's own rounding is taken off. κ = 4 for p = inf, q = 2, d = 16.
    """
    rng = np.random.default_rng(d)
    kappa = Fraction(bound_equivalence(p, q, d))
    for _ in range(300):
        constant, slope, lipschitz = rng.uniform([0, 0, 0.5], [1e-2, 1e-2, 2.0]).tolist()
        score, rho = float(rng.uniform(-2, 2)), float(rng.uniform(0, 2))
        radius = radius_by_rule(p, lipschitz, score, rho, d, errors_of_a_pair(q, constant, slope))
        error = Fraction(constant) + Fraction(slope) * Fraction(rho)
        room = abs(Fraction(score)) - 2 * error
        check_radius(radius, room / (Fraction(lipschitz) + kappa * Fraction(slope)), d)


def test_radius_for_another_format_is_the_formula():
    """Scores that err by E° at x, runtimes that err by E at x': (m - E° - E) / (L + κB), B of E alone."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        (a, b), (c, d) = rng.uniform(0, 1e-2, size=(2, 2)).tolist()
        score, rho = float(rng.uniform(-2, 2)), float(rng.uniform(0, 2))
        evaluated, promised = errors_of_a_pair(Norm.TWO, a, b), errors_of_a_pair(Norm.TWO, c, d)
        radius = radius_by_rule(Norm.TWO, 1.0, score, rho, 4, evaluated, promised)
        error = Fraction(a) + Fraction(c) + (Fraction(b) + Fraction(d)) * Fraction(rho)
        check_radius(radius, (abs(Fraction(score)) - error) / (1 + Fraction(d)), 4)


HEAD = linear_head(linear_net(np.zeros((2, 1))))


def errors_of_a_pair(norm, constant, slope):
    return RoundingBounds(
        norm=norm, head=HEAD, inherited=Affine(0.0, 0.0),
        local=Affine(np.array([0.0, constant]), np.array([0.0, slope])), magnitude=Affine(0.0, 1.0), limit=1e300,
    )  # fmt: skip


def radius_by_rule(norm, lipschitz, score, rho, size, *errors):
    bounds = LipschitzBounds(BALLS[norm], lipschitz, HEAD, (), None, ())
    vars(bounds)["bound_per_score_pair"] = np.array([[0.0, lipschitz], [lipschitz, 0.0]])
    rule = RadiusRule(np.array([0, 1]), bounds, *errors, input_size=size)
    x = np.zeros((1, size))
    x[0, 0] = rho
    return Fraction(float(rule(np.array([[0.0, score]]), x).certified_radius[0]))


def check_radius(radius, limit, size):
    """Just below what the formula gives, less the caller's own rounding."""
    limit = max(limit, Fraction(0)) * (1 - (size + 4) * Fraction(2) ** -52)
    assert radius < limit or limit == radius == 0
    assert radius > limit * (1 - Fraction(1, 10**12)) - Fraction(1, 10**13)


@pytest.mark.parametrize("norm", NORMS)
def test_doubles_rounded_to_float32_stay_within_the_radius(norm):
    """r' (1 + u) + ‖x - fl(x)‖ + u‖x‖ + d^{1/p} 2⁻¹⁴⁹ <= r, in rationals (of l2: in bounds on roots)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)) * 10.0 ** rng.uniform(-40, 6, size=(50, 1))
    rounded, radius = float32(x), 10.0 ** rng.uniform(-9, 0, size=50) * np.abs(x).max(axis=1)
    left = after_rounding_inputs(radius, bound_input_rounding(x, rounded, norm))
    u = Fraction(2) ** -24

    def length(v):
        v = [abs(a) for a in v]
        if norm is Norm.TWO:
            return Fraction(float(np.sqrt(float(sum(a * a for a in v))))) if any(v) else Fraction(0)
        return sum(v) if norm is Norm.ONE else max(v)

    for row, near, before, after in zip(rational(x), rational(rounded), radius, left, strict=True):
        tiny = Fraction(2) ** -149 * {Norm.ONE: 4, Norm.TWO: 2, Norm.INF: 1}[norm]
        taken = length(row - near) + u * length(row) + tiny
        if after > 0:
            assert Fraction(after) * (1 + u) + taken <= Fraction(before) * (1 + Fraction(1, 10**15))
        else:
            assert Fraction(before) < taken * 2
    assert (left > 0).mean() > 0.2


# --- norms and joins -----------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.1])
def test_spectral_bound_does_not_trust_its_singular_vectors(factor, monkeypatch):
    """Whatever LAPACK says, the bound is one; V off by a factor costs nothing, V of noise costs tightness."""
    w = np.random.default_rng(0).normal(size=(9, 6))
    vectors = np.linalg.eigh(w.T @ w)[1]
    for v in (vectors, np.linalg.qr(w[:6])[0], np.eye(6)[::-1]):
        monkeypatch.setattr(np.linalg, "eigh", lambda _, v=v: (None, factor * v))
        assert bounds_spectral_norm(w, bound_spectral_norm(w))


def test_copies_side_by_side_attain_the_bound():
    graph = nets.graph_of(
        1,
        ops.Concat(output="a", inputs=("input", "input"), shape=(2,), axis=0),
        ops.Abs(output="b", inputs=("a",), shape=(2,)),
        dense("scores", "b", np.ones((1, 2))),
    )
    for norm in NORMS:
        assert 2.0 <= bound_lipschitz(graph, norm).bound_global <= 2.0 * (1 + 1e-12)


# --- convolutions --------------------------------------------------------------------------

WINDOWS = {
    "padded": ((1, 1), (1, 1), (1, 1), 1),
    "strides": ((2, 3), (1, 1), (1, 1), 1),
    "dilated": ((1, 1), (2, 1), (0, 1), 1),
    "groups": ((2, 1), (1, 1), (0, 0), 2),
}


@pytest.mark.parametrize("source", NORMS)
@pytest.mark.parametrize("target", NORMS)
@pytest.mark.parametrize("name", WINDOWS)
def test_bounds_on_large_convolutions_cover_the_matrix(name, source, target, monkeypatch):
    """The bounds for convolutions too large to write out, against the matrix of a small one."""
    strides, dilations, pads, groups = WINDOWS[name]
    window = Window(spatial=(6, 7), size=(3, 2), strides=strides, dilations=dilations, begin=pads, end=pads)
    rng = np.random.default_rng(0)
    for _ in range(3):
        kernel = rng.normal(size=(4, 2, 3, 2))
        op = ops.Conv(
            output="", inputs=(), shape=(4, *window.output), kernel=kernel, window=window, groups=groups
        )
        matrix = integers.unrolled(op)
        if (norm := operator_norm(matrix, source, target)) is None:
            x = np.vstack(
                [rng.normal(size=(200, matrix.shape[1])), rng.choice([-1.0, 1.0], (200, matrix.shape[1]))]
            )
            exponent = {Norm.ONE: 1, Norm.TWO: 2, Norm.INF: np.inf}
            y = x @ matrix.T
            slopes = np.linalg.norm(y, exponent[target], axis=1) / np.linalg.norm(x, exponent[source], axis=1)
            norm = slopes.max()
        with monkeypatch.context() as patch:
            patch.setattr(convolution, "MAX_UNROLLED", 0)
            assert bound_conv_norm(op, source, target) >= norm * (1 - 1e-12)


def test_gram_iteration_pays_for_its_roundings():
    """A product K*K that rounding has made smaller by half of what it may: the bound holds all the same."""
    taps = 2**17
    compose = convolution._compose

    def rounded_down(left, right):
        return compose(left, right) * (1.0 - 0.5 * gamma(taps))

    with mock.patch.object(convolution, "_compose", rounded_down):
        assert Fraction(bound_gram_iteration(np.ones((taps, 1, 1, 1)))) ** 2 >= taps


def uneven_kernels():
    """Small integers times powers of two a channel: all sums of taps are exact."""
    rng = np.random.default_rng(4)
    for trial in range(30):
        m, n, *size = rng.integers(1, 5, size=4)
        kernel = rng.integers(-3, 4, size=(m, n, *size)) * 2.0 ** rng.integers(-12, 13, size=(1, n, 1, 1))
        yield kernel if trial % 2 else kernel.swapaxes(0, 1)


def test_gram_iteration_is_never_below_the_exact_norm_at_any_frequency_of_signs():
    """At frequencies 0 and π the convolution is the sum of its taps with signs, a matrix: by exact LDLᵀ."""
    for kernel in uneven_kernels():
        bound = bound_gram_iteration(kernel)
        places = np.indices(kernel.shape[2:])
        for flips in np.ndindex(2, 2):
            signs = (-1.0) ** (places * np.reshape(flips, (2, 1, 1))).sum(axis=0)
            assert bounds_spectral_norm((kernel * signs).sum(axis=(2, 3)), bound)


def test_gram_iteration_covers_the_matrix_of_uneven_channels():
    """By float64 SVD; and its first step alone is never above the largest row sum of K*K."""
    rng = np.random.default_rng(5)
    for _ in range(10):
        kernel = rng.normal(size=(4, 3, 3, 2)) * 10.0 ** rng.uniform(-3, 3, size=(1, 3, 1, 1))
        window = Window(
            spatial=(7, 6), size=(3, 2), strides=(1, 1), dilations=(1, 1), begin=(2, 1), end=(2, 1)
        )
        op = ops.Conv(output="", inputs=(), shape=(4, *window.output), kernel=kernel, window=window)
        matrix = integers.unrolled(op)
        assert bound_gram_iteration(kernel) >= np.linalg.norm(matrix, 2) * (1 - 1e-12)
        with mock.patch.object(convolution, "MAX_GRAM_WORK", 0):
            first = bound_gram_iteration(kernel)
        assert np.linalg.norm(matrix, 2) * (1 - 1e-12) <= first
        row_sum = np.abs(matrix.T @ matrix).sum(axis=1).max()  # rows in the middle of the image are whole
        assert first <= row_sum**0.5 * (1 + 1e-12)


def test_almost_orthogonal_kernels_are_bounded_by_1_at_once():
    """Filters over the root of the row sums of their correlations (Prach, Lampert 2022), by loops over taps."""
    rng = np.random.default_rng(6)
    free = rng.normal(size=(5, 4, 3, 3)) * np.array([0.01, 1.0, 10.0, 0.3])[:, None, None]
    padded = np.pad(free, ((0, 0), (0, 0), (2, 2), (2, 2)))
    sums = np.zeros(4)
    for i, j in np.ndindex(5, 5):
        sums += np.abs(np.einsum("ocab,odab->cd", free, padded[:, :, i : i + 3, j : j + 3])).sum(axis=1)
    kernel = free / np.sqrt(sums)[:, None, None]
    with mock.patch.object(convolution, "MAX_GRAM_WORK", 0):
        assert bound_gram_iteration(kernel) == pytest.approx(1.0, abs=1e-5)
        assert bound_gram_iteration(kernel.swapaxes(0, 1)[..., ::-1, ::-1]) == pytest.approx(1.0, abs=1e-5)


def test_gram_iteration_of_nothing_is_nearly_nothing():
    for kernel in (np.zeros((2, 3, 2, 2)), np.full((2, 2, 1, 1), 1e-200)):
        assert 0.0 <= bound_gram_iteration(kernel) < 1e-100


# --- the guard against overflow ------------------------------------------------------------


def scores_inside(graph, norm, size):
    """Answered label at (size, …, size), and a float32 runtime's label most of the portable radius up from there."""
    content = to_file(graph)
    predictor = CertifiedPredictor(content)
    x = float32(np.full((1, graph.input_size), size))
    reach = {Norm.ONE: 1 / graph.input_size, Norm.TWO: graph.input_size**-0.5, Norm.INF: 1.0}[norm]
    y = x + 0.9 * reach * predictor.portable_radii(x, norm)
    program = runtimes.onnxruntime(content, graph)
    return predictor.predict(x, norm).radii.label, program(y), runtimes.flushed(program)(y)


@pytest.mark.parametrize("norm", NORMS)
def test_sums_of_a_mean_do_not_overflow_within_the_radius(norm):
    whole = Window(spatial=(8, 8), size=(8, 8), strides=(1, 1), dilations=(1, 1), begin=(0, 0), end=(0, 0))
    graph = nets.graph_of(
        64,
        ops.AveragePool(output="a", inputs=("input",), shape=(1, 1, 1), window=whole, count_padding=False),
        ops.Reshape(output="b", inputs=("a",), shape=(1,)),
        dense("scores", "b", np.array([[0.5], [1.0]]), np.zeros(2)),
        shape=(1, 8, 8),
    )
    answered, seen, _ = scores_inside(graph, norm, 5.3e36)
    assert answered == seen


def test_a_subnormal_divisor_is_refused():
    """A processor that takes subnormal numbers for zero divides by zero; no bound covers that."""
    graph = nets.graph_of(
        1,
        dense("z", "input", float32([[1e-20]]), np.zeros(1)),
        ops.Scale(output="a", inputs=("z",), shape=(1,), factor=float32([1e-39]), divide=True),
        dense("scores", "a", float32([[1e-19], [2e-19]]), np.zeros(2)),
    )
    with pytest.raises(UnsupportedError, match="subnormal"):
        CertifiedPredictor(to_file(graph))
