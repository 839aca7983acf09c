"""The forward error bound against its formula in rationals, exact evaluation and roundings that all go one way."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from lipmodel.certify.head import linear_head
from lipmodel.certify.rounding import FORMATS, bound_rounding
from lipmodel.network import ops
from lipmodel.network.execution import Execution
from lipmodel.network.window import Window
from lipmodel.norms import Norm, bound_vector_norm
from tests.exact import rational
from tests.networks import dense, float32, linear_net
from tests.soundness import integers, nets, runtimes

FLOATS = [np.float32, np.float64]


def exact_gamma(k, execution):
    u = Fraction(execution.unit_roundoff)
    return k * u / (1 - k * u)


def eta(terms, weight, size, execution):
    return (4 * terms + 4) * Fraction(execution.smallest_normal) * (1 + weight + size)


def row_sum(matrix):
    return max(sum(abs(v) for v in row) for row in rational(matrix.reshape(len(matrix), -1)))


def largest(array):
    return max(abs(v) for v in rational(array).ravel())


def error_by_hand(graph, rho, execution):
    """E_01(ρ) in linf, from the certificate's formulas, of a net linear map -> Relu -> dense."""
    first, last = graph.ops[0], graph.ops[-1]
    weight = first.weight if isinstance(first, ops.Dense) else first.kernel
    terms, rho = weight[0].size, Fraction(rho)
    bias = largest(first.bias)
    local = exact_gamma(terms + 2, execution) * (row_sum(weight) * rho + bias) + eta(
        terms, largest(weight), rho, execution
    )
    flush = 4 * Fraction(execution.smallest_normal)  # Relu of a subnormal number
    size, error = row_sum(weight) * rho + bias + local + flush, local + flush
    rows, biases = rational(last.weight), rational(last.bias)
    ends = [
        exact_gamma(len(row) + 2, execution) * (sum(abs(v) for v in row) * size + abs(b))
        + eta(len(row), largest(last.weight), size, execution)
        for row, b in zip(rows, biases, strict=True)
    ]
    return sum(abs(v) for v in rows[0] - rows[1]) * error + sum(ends)


def hidden_layer(bias):
    rng = np.random.default_rng(1)
    first = dense("a", "input", float32(rng.normal(size=(3, 7))), bias * float32(rng.normal(size=3)))
    return nets.graph_of(7, first, nets.relu("b", "a", 3), scores("b", 3, bias))


def hidden_convolution(bias):
    rng = np.random.default_rng(2)
    window = Window(spatial=(4, 3), size=(3, 2), strides=(1, 1), dilations=(1, 1), begin=(1, 0), end=(1, 1))
    kernel = float32(rng.normal(size=(2, 2, 3, 2)))
    return nets.graph_of(
        24,
        ops.Conv(
            output="a",
            inputs=("input",),
            shape=(2, 4, 3),
            kernel=kernel,
            bias=bias * np.ones(2),
            window=window,
        ),
        ops.Clip(output="b", inputs=("a",), shape=(2, 4, 3), low=np.zeros(())),
        ops.Reshape(output="c", inputs=("b",), shape=(24,)),
        scores("c", 24, bias),
        shape=(2, 4, 3),
    )


def scores(x, size, bias):
    rng = np.random.default_rng(3)
    return dense("scores", x, float32(rng.normal(size=(2, size))), bias * float32([1.0, -0.5]))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("make", [hidden_layer, hidden_convolution])
@pytest.mark.parametrize(("rho", "bias"), [(1.0, 0.0), (1.0, 1000.0), (2.0**-120, 0.0), (2.0**-1015, 0.0)])
def test_error_bound_is_the_formula(make, dtype, rho, bias):
    """Neither below it nor above; with small inputs η is what counts, with large biases they are."""
    graph, execution = make(bias), FORMATS[dtype]
    bound = bound_rounding(graph, Norm.INF, execution).pair_error(np.array([0]), None, np.array([rho]))[0, 1]
    by_hand = error_by_hand(graph, rho, execution)
    assert by_hand <= Fraction(float(bound)) <= by_hand * (1 + Fraction(1, 10**11)) + Fraction(2) ** -1060


def test_two_roundings_of_one_sign_reach_two_thirds_of_the_bound():
    """w x + b in float32, with both roundings almost half a unit and upwards: 2u of the γ_3 allowed.

    So a bound with γ_1 (n = 1 terms) does not hold, nor a tenth of ours.
    """
    rng = np.random.default_rng(0)
    w, x = (float32(rng.uniform(1.0, 1.0 + 2.0**-8, size=200_000)) for _ in range(2))
    product = float32(w * x)  # the exact product of two float32 numbers is a float64
    b = float32(2.0**-12 + rng.integers(0, 2**12, size=len(w)) * 2.0**-36)
    error = np.abs(float32(product + b) - (w * x + b))  # exact but for 2^-53 of it
    worst = int(error.argmax())
    graph = linear_net([[w[worst]]], [b[worst]])
    bound = bound_rounding(graph, Norm.TWO, FORMATS[np.float32])
    computed = Execution(graph, np.float32).scores(x[worst : worst + 1, None])[0, 0]
    exact = Fraction(w[worst]) * Fraction(x[worst]) + Fraction(b[worst])
    seen = abs(Fraction(float(computed)) - exact) / Fraction(
        float(bound.pair_error(np.array([0]), None, np.array([x[worst]]))[0, 1])
    )
    assert Fraction(6, 10) < seen <= 1


def test_flushing_to_zero_stays_within_the_bound():
    """A subnormal input that a processor takes for zero moves the score by all of it."""
    graph = linear_net([[1.0]])
    x = np.array([[2.0**-127]])
    program = runtimes.program(graph, runtimes.numpy_matmul, answer=lambda scores: scores.astype(float))
    with runtimes.flushing():
        computed = program(x)[0, 0]
    assert computed == 0.0
    bound = bound_rounding(graph, Norm.TWO, FORMATS[np.float32])
    assert bound.pair_error(np.array([0]), None, np.array([2.0**-127]))[0, 1] >= 2.0**-127


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("norm", [Norm.TWO, Norm.INF])
@pytest.mark.parametrize("name", nets.NETS)
def test_forward_error_of_every_network(name, norm, dtype):
    """|computed - exact| <= E in integers, of our own execution and of two other orders of summation."""
    graph = nets.fresh(nets.make(name).graph)
    head = linear_head(graph)
    graph = replace(graph, output=head.scores).pruned()
    bound = bound_rounding(graph, norm, FORMATS[dtype])
    rng = np.random.default_rng(0)
    x = float32(rng.normal(size=(12, graph.input_size)) * 10.0 ** rng.uniform(-3, 6, size=(12, 1)))
    exact = integers.scores(graph, x)
    exact_scores = [[Fraction(int(v), exact.denominator) for v in row] for row in exact.numerator]
    allowed = bound.score_error(bound_vector_norm(x, norm, axis=1))[:, int(head.binary) :]
    programs = [
        Execution(graph, dtype).scores,
        *(
            runtimes.program(graph, order, dtype, answer=lambda scores: scores)
            for order in (runtimes.numpy_backwards, runtimes.numpy_halves)
        ),
    ]
    for program in programs:
        for row, computed, limits in zip(exact_scores, program(x), allowed, strict=True):
            for value, score, limit in zip(row, computed, limits, strict=True):
                assert abs(Fraction(float(score)) - value) <= Fraction(float(limit))
