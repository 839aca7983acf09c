"""A priori bounds on the rounding error of a floating-point evaluation.

For every conforming evaluation (each product, sum and fused multiply-add rounded to nearest, in
any order, gradual underflow or flush to zero) of every input x with ‖x‖_q <= ρ,

    |(ŷ_i - ŷ_j) - (y_i - y_j)| <= E_ij(ρ) = A_ij + B_ij ρ.

Per tensor the recursion carries V >= ‖ẑ‖_q, the size of the computed value, and D >= ‖ẑ - z‖_q,
its distance from the exact value, both affine in ρ. A step z -> Wz + b adds a local error in terms
of the *computed* input, so that D' = ‖W‖ D + local holds exactly: no second-order term is dropped.
One dot product of n terms with its bias: at most γ_{n+2}(|W||ẑ| + |b|) + η, Higham 2002, section
3.1; η pays for results under the smallest normal number. ``docs/certificate.md``, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lipmodel.certify.head import Head, Indices, linear_head
from lipmodel.certify.lipschitz import bound_average
from lipmodel.certify.norms.layers import bound_absolute_norm, bound_norm, observed_least_norm
from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op, missing_rule
from lipmodel.network.self_check import EvaluationBounds
from lipmodel.network.window import Shape
from lipmodel.norms import (
    Array,
    Norm,
    bound_equivalence,
    bound_vector_norm,
    gamma,
    inflate,
    up,
)


@dataclass(frozen=True)
class Format:
    """A floating-point format to evaluate in: unit roundoff, smallest normal and largest number."""

    unit_roundoff: float
    smallest_normal: float
    largest: float


FORMATS = {
    np.float32: Format(2.0**-24, 2.0**-126, float(np.finfo(np.float32).max)),
    np.float64: Format(2.0**-53, 2.0**-1022, float(np.finfo(np.float64).max)),
}


@dataclass(frozen=True)
class Affine:
    """constant + slope·ρ with entries >= 0 (numbers, or arrays with one entry a score), rounded upwards."""

    constant: float | Array
    slope: float | Array

    def __add__(self, other: Affine) -> Affine:
        return Affine(up(self.constant + other.constant), up(self.slope + other.slope))

    def plus(self, constant: float | Array) -> Affine:
        """Return the sum with a constant."""
        return Affine(up(self.constant + constant), self.slope)

    def at(self, size: Array) -> Array:
        """Return the value for ρ = size."""
        return np.asarray(up(self.constant + up(self.slope * size)))

    def times(self, factor: float | Array) -> Affine:
        """Return the product with a factor >= 0."""
        return Affine(up(self.constant * factor), up(self.slope * factor))


ZERO = Affine(0.0, 0.0)


@dataclass(frozen=True, eq=False)
class RoundingBounds:
    """The bound E in its parts: E_ij(ρ) = ‖w_i - w_j‖_{q*} D(ρ) + e_i(ρ) + e_j(ρ).

    Attributes:
        norm: the norm q in which ρ measures the input.
        head: head of the network.
        inherited: D, the error of the features.
        local: (M,) e, the error that the head adds.
        magnitude: affine bound on every intermediate result and partial sum, for the guard against overflow.
        limit: the magnitude must stay below this.
    """

    norm: Norm
    head: Head
    inherited: Affine
    local: Affine
    magnitude: Affine
    limit: float

    @property
    def distances(self) -> Array:
        """Return (M, M) ‖w_i - w_j‖_{q*}; zeros where the features are exact, so that it does not matter."""
        if self.inherited == ZERO:
            return np.broadcast_to(0.0, (len(self.head.owners),) * 2)
        return self.head.distances(self.norm.dual)

    def pair_coefficients(self, first: Indices, second: Indices | None) -> Affine:
        """Return A_ij and B_ij of E_ij(ρ) = A_ij + B_ij ρ for pairs of scores.

        Args:
            first: i, and
            second: j: arrays that broadcast against one another to the shape of both; without ``second``
                i is (N,) and stands against every j: (N, M).
        """
        constant, slope = np.asarray(self.local.constant), np.asarray(self.local.slope)
        if second is None:
            distances, own = self.distances[first], first[:, None]
        else:
            distances, own = self.distances[first, second], first
            constant, slope = constant[second], slope[second]
        constant = distances * self.inherited.constant + (np.asarray(self.local.constant)[own] + constant)
        slope = distances * self.inherited.slope + (np.asarray(self.local.slope)[own] + slope)
        # Three roundings of numbers >= 0, for which the factor pays 32 half units; and a product that
        # may be subnormal and lose half a step, for which the two steps pay.
        constant, slope = (up(up(part) * (1.0 + 2.0**-48)) for part in (constant, slope))
        return Affine(constant, slope)

    def pair_error(self, first: Indices, second: Indices | None, size: Array) -> Array:
        """Return E_ij(ρ) for pairs as in :meth:`pair_coefficients`, for sizes ρ, (N,) without ``second``."""
        return self.pair_coefficients(first, second).at(size[:, None] if second is None else size)

    def score_error(self, size: Array) -> Array:
        """Return (N, M) the error of each raw score by itself."""
        inherited = up(self.head.row_norms(self.norm.dual) * self.inherited.at(size)[:, None])
        return np.asarray(up(inherited + self.local.at(size[:, None])))

    def of_evaluation(self) -> EvaluationBounds:
        """Return the bounds on single class scores and on intermediate results."""
        owned = self.head.owners >= 0
        return EvaluationBounds(
            norm=self.norm,
            constant=float(self.magnitude.constant),
            slope=float(self.magnitude.slope),
            limit=self.limit,
            score_error=lambda size: self.score_error(size)[:, owned].max(axis=1),
        )


@dataclass(frozen=True)
class Track:
    """Size V of a tensor, exact or computed, and the distance D between the two, in the norm q."""

    size: Affine
    error: Affine


def bound_rounding(graph: Graph, norm: Norm, execution: Format) -> RoundingBounds:
    """Return bounds on the rounding error of differences of scores, for evaluation in a format."""
    return _rounding(graph, _Recursion(norm, execution))


def observed_least_rounding(graph: Graph, norm: Norm, execution: Format) -> RoundingBounds:
    """Return about the least that :func:`bound_rounding` can be, in time linear in the weights; no bound."""
    return _rounding(graph, _Recursion(norm, execution, least=True))


@np.errstate(over="ignore", invalid="ignore")  # an infinite bound is a bound: nothing is certified with it
def _rounding(graph: Graph, recursion: _Recursion) -> RoundingBounds:
    head = linear_head(graph)
    track = recursion.tracks(head.body)[head.body.output]
    return RoundingBounds(
        norm=recursion.norm,
        head=head,
        inherited=track.error,
        local=recursion.scores(head, track),
        magnitude=recursion.magnitude,
        limit=recursion.execution.largest / 4.0,
    )


def bound_tensors(graph: Graph, norm: Norm, execution: Format) -> dict[str, Track]:
    """Return size and error of every tensor of a graph, by name, in the norm q that ρ is in."""
    return _Recursion(norm, execution).tracks(graph)


class _Recursion:
    """Section 4 of the certificate, one method a kind of operation."""

    def __init__(self, norm: Norm, execution: Format, *, least: bool = False) -> None:
        self.norm, self.execution, self.least = norm, execution, least
        self.magnitude = Affine(0.0, 1.0)

    def gamma(self, k: int) -> float:
        """Return γ_k of the execution format."""
        return gamma(k, self.execution.unit_roundoff)

    def see(self, size: Affine) -> None:
        """Record a bound on intermediate results."""
        self.magnitude = Affine(
            np.maximum(self.magnitude.constant, np.max(size.constant)),
            np.maximum(self.magnitude.slope, np.max(size.slope)),
        )

    def underflow(self, terms: int, weight: float, size: Affine, outputs: int) -> Affine:
        """η of one result, (4n+4) τ (1 + max|W| + ‖ẑ‖), taken over all outputs in the norm q.

        2n + 2 results may fall below τ, and their loss may grow by 1 + γ <= 2 on the way to the sum.

        ‖ẑ‖_inf <= ‖ẑ‖_q, so the size in the norm q serves.
        """
        each = (4.0 * terms + 4.0) * self.execution.smallest_normal
        spread = bound_equivalence(Norm.INF, self.norm, outputs)
        return size.plus(up(1.0 + weight)).times(float(up(up(each) * spread)))

    def local(self, k: int, magnitude: Affine, eta: Affine) -> Affine:
        """Return γ_k·magnitude + η, and record the magnitude as a bound on partial sums."""
        self.see(magnitude.times(float(up(1.0 + self.gamma(k)))) + eta)
        return magnitude.times(self.gamma(k)) + eta

    def tracks(self, graph: Graph) -> dict[str, Track]:
        """Return every tensor's track, by name."""
        tracks = {graph.input: Track(size=Affine(0.0, 1.0), error=ZERO)}
        for op in graph.ops:
            tracks[op.output] = self.step(op, [tracks[name] for name in op.inputs])
        return tracks

    def step(self, op: Op, inputs: Sequence[Track]) -> Track:
        """Return size and error of an operation's output from those of its inputs."""
        first = inputs[0]
        # What is exact but for subnormal numbers, which a flushing processor takes for zero, loses this.
        flush = self.underflow(0, 0.0, ZERO, op.size)
        match op:
            case ops.Dense():
                return self._linear(op, op.weight, op.weight.shape[1], first)
            case ops.Conv():
                return self._linear(op, op.kernel, op.kernel[0].size, first)
            case ops.AveragePool():
                average = bound_average(op, self.norm)
                self.see(first.size.times(float(op.window.taps)))  # the sum, before it is divided
                eta = self.underflow(op.window.taps, 1.0, first.size, op.size)
                local = self.local(op.window.taps + 2, first.size.times(average), eta)
                return Track(first.size.times(average) + local, first.error.times(average) + local)
            case ops.MaxPool():
                copies = bound_equivalence(Norm.INF, self.norm, op.window.readers.shape[1])
                return Track(first.size.times(copies) + flush, first.error.times(copies) + flush)
            case ops.LeakyRelu() | ops.Scale():
                factors = (
                    _bound_factors(op) if isinstance(op, ops.Scale) else np.append(np.abs(op.slope), 1.0)
                )
                factor = float(factors.max())
                eta = self.underflow(1, factor, first.size, op.size)
                local = self.local(2, first.size.times(factor), eta)
                return Track(first.size.times(factor) + local, first.error.times(factor) + local)
            case ops.Shift():
                offset = self._whole(op.offset, op.shape)
                eta = self.underflow(1, 1.0, first.size, op.size)
                local = self.local(2, first.size.plus(offset), eta)
                return Track(first.size.plus(offset) + local, first.error + local)
            case ops.Sum():
                size = first.size + inputs[1].size
                local = self.local(2, size, self.underflow(1, 1.0, size, op.size))
                return Track(size + local, first.error + inputs[1].error + local)
            case ops.Clip():
                at_zero = np.zeros(())
                at_zero = at_zero if op.low is None else np.maximum(at_zero, op.low)
                at_zero = at_zero if op.high is None else np.minimum(at_zero, op.high)
                size = first.size  # |clip(v)| <= |v| + |clip(0)| entrywise, since its slope is at most 1
                if at_zero.any():
                    size = size.plus(self._whole(at_zero, op.shape))
                return Track(size + flush, first.error + flush)
            case ops.Abs() | ops.Negate() | ops.Sort() | ops.SortingNetwork() | ops.ReduceExtremum():
                # ‖·‖_q of a sorted, reduced or reflected tensor is at most that of the tensor.
                flush = flush.times(1.0 + (len(op.comparators) if isinstance(op, ops.SortingNetwork) else 0))
                return Track(first.size + flush, first.error + flush)
            case ops.Extremum() | ops.Concat():
                size, error = self._join([t.size for t in inputs]), self._join([t.error for t in inputs])
                return Track(size + flush, error + flush)
            case ops.Select() | ops.Reshape() | ops.Transpose():
                return first
            case _:
                raise missing_rule(op, "rounding errors")

    def _linear(self, op: ops.Dense | ops.Conv, weight: Array, terms: int, x: Track) -> Track:
        """Return the track after a matrix and a bias, of ``terms`` products a result."""
        bias = op.bias
        if bias is not None and isinstance(op, ops.Conv):
            bias = bias.reshape(-1, *(1 for _ in op.shape[1:]))
        offset = 0.0 if bias is None else self._whole(bias, op.shape)
        if self.least and isinstance(op, ops.Dense):
            norm = observed_least_norm(op, self.norm, self.norm)
        else:
            norm = bound_norm(op, self.norm, self.norm)
        magnitude = x.size.times(bound_absolute_norm(op, self.norm)).plus(offset)
        eta = self.underflow(terms, float(np.abs(weight).max(initial=0.0)), x.size, op.size)
        local = self.local(terms + 2, magnitude, eta)
        return Track(x.size.times(norm).plus(offset) + local, x.error.times(norm) + local)

    def scores(self, head: Head, track: Track) -> Affine:
        """Return per score, (K,), the error that the head adds to that of the features.

        ‖|w_c|+|w_j|‖ <= ‖w_c‖ + ‖w_j‖: the errors of two scores are bounded one by one and added.
        """
        count = len(head.rows) - head.binary
        size, error = track.size, Affine(np.zeros(count), np.zeros(count))
        for op in head.ops:
            terms, weight, factor, offset = 1, 1.0, np.ones(op.shape), np.zeros(op.shape)
            match op:
                case ops.Dense():
                    terms, weight = op.weight.shape[1], float(np.abs(op.weight).max())
                    factor = bound_vector_norm(op.weight, self.norm.dual, axis=1)
                    offset = offset if op.bias is None else np.abs(op.bias)
                case ops.Scale():
                    factor = np.asarray(np.broadcast_to(_bound_factors(op), op.shape))
                    weight = float(factor.max())
                case ops.Shift():
                    offset = np.abs(np.broadcast_to(op.offset, op.shape))
                case _:  # heads are made of these three alone (``head.py``)
                    raise missing_rule(op, "rounding errors of a head")
            magnitude = size.times(factor).plus(offset)
            added = self.local(terms + 2, magnitude, self.underflow(terms, weight, size, 1))
            size, error = magnitude + added, error.times(factor) + added
        if head.binary:  # the 0 in front is exact
            return Affine(np.append(0.0, error.constant), np.append(0.0, error.slope))
        return error

    def _whole(self, values: Array, shape: Shape) -> float:
        """Return the norm of a constant spread over a whole tensor."""
        return float(bound_vector_norm(np.broadcast_to(values, shape).ravel(), self.norm))

    def _join(self, parts: Sequence[Affine]) -> Affine:
        """Norm of tensors side by side: (Σ (a+bρ)^q)^{1/q} <= (Σ a^q)^{1/q} + (Σ b^q)^{1/q} ρ, Minkowski."""
        constants, slopes = [p.constant for p in parts], [p.slope for p in parts]
        return Affine(
            float(bound_vector_norm(np.asarray(constants), self.norm)),
            float(bound_vector_norm(np.asarray(slopes), self.norm)),
        )


def _bound_factors(op: ops.Scale) -> Array:
    return np.asarray(inflate(1.0 / np.abs(op.factor), 1) if op.divide else np.abs(op.factor))
