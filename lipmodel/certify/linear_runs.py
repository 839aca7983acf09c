"""Linear maps in a row, bounded as one map: the norm of a product is at most the product of the norms.

Where nothing nonlinear lies between a tensor z and a tensor t, t(x) - t(x') = W (z(x) - z(x')) with W the
product of the maps, so that L_t <= ‖W‖_{s→t} L_s(z) for every s: as tight as the linear part of a network can
be. The scale of a threat set is one more map, in front of the input: x' - x = s∘u (``threat.py``).

Products serve Lipschitz constants alone. An evaluation rounds after each map by itself, so its rounding
errors are bounded map by map (``rounding.py``).

A product of k roundings is off, entry by entry, by at most γ_k of the product of absolute values (Higham
2002, section 3.5), in the Frobenius norm by at most γ_k of its Frobenius norm; no entry lies outside
2^±400, so nothing is lost to underflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lipmodel.certify.head import FeatureBound, Head, Indices
from lipmodel.certify.norms.layers import bound_norm, observed_least_norm
from lipmodel.network import ops
from lipmodel.network.ops import Op, missing_rule
from lipmodel.norms import (
    Array,
    Norm,
    bound_equivalence,
    bound_through_two,
    bound_vector_norm,
    gamma,
    inflate,
    up,
)
from lipmodel.threat import Threat

MAX_MULTIPLICATIONS = 2**34
"""Maximum multiplications of a product: some seconds."""
SMALLEST, LARGEST = 2.0**-400, 2.0**400
"""Range of the entries of a product other than 0."""


@dataclass(frozen=True, eq=False)
class LinearRun:
    """A tensor t as an affine function of a tensor z: t = W z + constant.

    Attributes:
        source: name of z; None for the change u of the input, in units of the threat set.
        weight: W as computed, (n, m); or of a map that scales entries, (m,) their factors.
        places: (m,) entry of t that each entry of z becomes, for a map that scales entries; the others do
            not change. None where ``weight`` is a matrix.
        bound_size: never below the product of the absolute values, of the shape of ``weight``; None where
            that is ``weight`` without signs.
        roundings: k; 0 where W is exact.
        maps: number of maps, without those that scale all entries alike, whose norms multiply exactly.
    """

    source: str | None
    weight: Array
    places: Indices | None
    bound_size: Array | None = None
    roundings: int = 0
    maps: int = 1

    @cached_property
    def _slack(self) -> float:
        """Return a bound on the Frobenius norm of the error of the product."""
        size = self.weight if self.bound_size is None else self.bound_size
        return float(inflate(gamma(self.roundings) * bound_vector_norm(size.ravel(), Norm.TWO), 1))

    @cached_property
    def _dense(self) -> ops.Dense:
        """Return the product as an operation, whose norms are kept as long as it."""
        return ops.Dense(inputs=("z",), output="t", shape=(len(self.weight),), weight=self.weight)

    def bound(self, source: Norm, target: Norm) -> float:
        """Return an upper bound on ‖W‖_{source→target}."""
        if self.places is not None:
            return bound_scaling(self.weight, source, target, self.roundings)
        n, m = self.weight.shape
        slack = bound_through_two(self._slack, (n, m), source, target) if self.roundings else 0.0
        return float(up(bound_norm(self._dense, source, target) + slack))

    def observed_least(self, source: Norm, target: Norm) -> float:
        """Return about the least that :meth:`bound` can be, in linear time; no bound."""
        if self.places is not None:
            return self.bound(source, target)
        return observed_least_norm(self._dense, source, target)

    def times_dense(self, op: ops.Dense) -> LinearRun | None:
        """Return the run that includes a dense layer of t; None if it is out of range or takes too long."""
        if not all_in_range(op.weight):
            return None
        maps = self.maps + 1
        if self.places is not None:
            weight, roundings = op.weight[:, self.places] * self.weight, self.roundings + 1
            return _in_range(LinearRun(self.source, weight, None, None, roundings, maps))
        if op.weight.size * self.weight.shape[1] > MAX_MULTIPLICATIONS:
            return None
        roundings = self.roundings + op.weight.shape[1]
        own = np.abs(self.weight) if self.bound_size is None else self.bound_size
        size = np.asarray(inflate(np.abs(op.weight) @ own, roundings))
        return _in_range(LinearRun(self.source, op.weight @ self.weight, None, size, roundings, maps))

    def times_scale(self, scale: LinearRun) -> LinearRun | None:
        """Return the run that includes a map of t that scales entries; None where it is out of range."""
        taken = scale.weight[:, None] if self.places is None else scale.weight[self.places]
        size = None if self.bound_size is None else np.asarray(inflate(np.abs(taken) * self.bound_size, 2))
        roundings, maps = self.roundings + scale.roundings + 1, self.maps + scale.maps
        return _in_range(LinearRun(self.source, taken * self.weight, self.places, size, roundings, maps))

    def turn(self, head: Head) -> Head | None:
        """Return a head whose features are t, with rows in the coordinates of z; None if out of range."""
        if not all_in_range(head.rows):
            return None
        if self.places is not None:
            rows = head.rows[:, self.places] * self.weight
            size, roundings = np.abs(rows), self.roundings + 2
        else:
            roundings = self.roundings + head.rows.shape[1]
            rows = head.rows @ self.weight
            own = np.abs(self.weight) if self.bound_size is None else self.bound_size
            size = np.abs(head.rows) @ own
        roundings += head.roundings
        bound_size = np.asarray(inflate(size, roundings))
        return replace(head, rows=rows, roundings=roundings, bound_size=bound_size, _distances={}, _sizes={})

    def feature_bounds(
        self, head: Head, begin: Mapping[Norm, float], norms: list[Norm]
    ) -> list[FeatureBound]:
        """Return bounds of scores that are linear in t, from the constants of z in some of its norms."""
        turned = self.turn(head)
        return [] if turned is None else [FeatureBound(turned, s, begin[s]) for s in norms]


def follow(run: LinearRun | None, op: Op) -> LinearRun | None:
    """Return the run that an operation continues, or begins if there is none; None where it is not linear."""
    match op:
        case ops.Dense() if len(op.shape) == 1:
            begin = LinearRun(op.inputs[0], op.weight, None)
            return _in_range(begin) if run is None else run.times_dense(op)
        case ops.Scale():
            begin = _scale_run(op)
            return _in_range(begin) if run is None else run.times_scale(begin)
        case ops.Negate() | ops.Shift() | ops.Reshape():  # neither a sign nor a shift changes a norm
            return run
        case (
            ops.Dense() | ops.Conv() | ops.AveragePool() | ops.MaxPool() | ops.LeakyRelu() | ops.Clip()
            | ops.Abs() | ops.Sort() | ops.SortingNetwork() | ops.Extremum() | ops.ReduceExtremum()
            | ops.Sum() | ops.Concat() | ops.Select() | ops.Transpose()
        ):  # fmt: skip
            return None
        case _:
            raise missing_rule(op, "linear maps in a row")


def threat_run(threat: Threat) -> LinearRun | None:
    """Return the map from u to s∘u, without the frozen columns; None for a ball."""
    if threat.scale is None:
        return None
    changed = np.flatnonzero(threat.scales)
    return LinearRun(None, threat.scales[changed], changed)


def bound_change(threat: Threat, target: Norm, size: int) -> float:
    """Return a number never below ‖x' - x‖_target of changes of size 1, sup ‖s∘u‖_t / ‖u‖_p.

    That is max s for t >= p, and for t < p, by Hölder's inequality, ‖s‖_e with 1/e = 1/t - 1/p.

    Args:
        threat: the threat set.
        target: t.
        size: d, of which a ball depends.
    """
    if threat.scale is None:
        return bound_equivalence(threat.norm, target, size)
    return bound_scaling(threat.scales, threat.norm, target, 0)


def bound_scaling(factors: Array, source: Norm, target: Norm, roundings: int) -> float:
    """Return an upper bound on the norm source→target of a diagonal matrix; see :func:`bound_change`."""
    exponent = {1.0: Norm.ONE, 0.5: Norm.TWO}.get(target.reciprocal - source.reciprocal, Norm.INF)
    bound = float(bound_vector_norm(factors, exponent))
    return float(inflate(bound, roundings)) if roundings else bound


def _scale_run(op: ops.Scale) -> LinearRun:
    factor = np.broadcast_to(op.factor, op.shape).ravel()
    uneven = int(np.ptp(np.abs(factor)) > 0.0)
    with np.errstate(over="ignore", divide="ignore"):
        factor, roundings = (1.0 / factor, 1) if op.divide else (factor, 0)
    return LinearRun(op.inputs[0], factor, np.arange(op.size), None, roundings, uneven)


def _in_range(run: LinearRun) -> LinearRun | None:
    return run if all_in_range(run.weight) else None


def all_in_range(values: Array) -> bool:
    """Return whether every entry is 0 or within 2^±400 in size."""
    sizes = np.abs(values)
    return bool(((sizes == 0.0) | ((sizes >= SMALLEST) & (sizes <= LARGEST))).all())
