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

    def after(self, op: Op) -> LinearRun | None:
        """Return the run that includes an operation on t; None where it is not linear, or out of range."""
        match op:
            case ops.Dense() if len(op.shape) == 1:
                return self._dense_after(op)
            case ops.Scale():
                factor, roundings, maps = _factors(op)
                taken = factor if self.places is None else factor[self.places]
                columns = (slice(None), None) if self.places is None else slice(None)
                size = (
                    None if self.bound_size is None else inflate(np.abs(taken[columns]) * self.bound_size, 2)
                )
                return _in_range(
                    replace(
                        self,
                        weight=taken[columns] * self.weight,
                        bound_size=size,
                        roundings=self.roundings + roundings + 1,
                        maps=self.maps + maps,
                    )
                )
            case ops.Negate():
                return replace(self, weight=-self.weight)
            case ops.Shift() | ops.Reshape():  # differences, and the order of the entries, stay as they are
                return self
            case (
                ops.Dense() | ops.Conv() | ops.AveragePool() | ops.MaxPool() | ops.LeakyRelu() | ops.Clip()
                | ops.Abs() | ops.Sort() | ops.SortingNetwork() | ops.Extremum() | ops.ReduceExtremum()
                | ops.Sum() | ops.Concat() | ops.Select() | ops.Transpose()
            ):  # fmt: skip
                return None
            case _:
                raise missing_rule(op, "linear maps in a row")

    def _dense_after(self, op: ops.Dense) -> LinearRun | None:
        maps = self.maps + 1
        if self.places is not None:
            weight = op.weight[:, self.places] * self.weight
            run = replace(
                self, weight=weight, places=None, bound_size=None, roundings=self.roundings + 1, maps=maps
            )
            return _in_range(run) if _all_in_range(op.weight) else None
        if op.weight.size * self.weight.shape[1] > MAX_MULTIPLICATIONS or not _all_in_range(op.weight):
            return None
        roundings = self.roundings + op.weight.shape[1]
        size = np.abs(self.weight) if self.bound_size is None else self.bound_size
        return _in_range(
            replace(
                self,
                weight=op.weight @ self.weight,
                bound_size=np.asarray(inflate(np.abs(op.weight) @ size, roundings)),
                roundings=roundings,
                maps=maps,
            )
        )

    def feature_bounds(
        self, head: Head, begin: Mapping[Norm, float], norms: list[Norm]
    ) -> list[FeatureBound]:
        """Return bounds of scores that are linear in t, with their rows in the coordinates of z.

        Args:
            head: head of the network, whose features are t.
            begin: the constants of z.
            norms: norms of z that are of use.
        """
        if not _all_in_range(head.rows):
            return []
        if self.places is not None:
            rows = head.rows[:, self.places] * self.weight
            size, roundings = np.abs(rows), self.roundings + 2
        else:
            roundings = self.roundings + head.rows.shape[1]
            rows = head.rows @ self.weight
            own = np.abs(self.weight) if self.bound_size is None else self.bound_size
            size = np.abs(head.rows) @ own
        roundings += head.roundings
        turned = replace(
            head, rows=rows, roundings=roundings, bound_size=inflate(size, roundings), _distances={}
        )
        return [FeatureBound(turned, s, begin[s]) for s in norms]


def begin_run(op: Op) -> LinearRun | None:
    """Return the run of one operation alone; None where it is not linear, or only moves entries."""
    match op:
        case ops.Dense() if len(op.shape) == 1 and _all_in_range(op.weight):
            return LinearRun(op.inputs[0], op.weight, None)
        case ops.Scale():
            factor, roundings, maps = _factors(op)
            return _in_range(LinearRun(op.inputs[0], factor, np.arange(op.size), None, roundings, maps))
        case (
            ops.Dense() | ops.Conv() | ops.AveragePool() | ops.MaxPool() | ops.LeakyRelu() | ops.Clip()
            | ops.Abs() | ops.Negate() | ops.Shift() | ops.Sort() | ops.SortingNetwork() | ops.Extremum()
            | ops.ReduceExtremum() | ops.Sum() | ops.Concat() | ops.Select() | ops.Reshape() | ops.Transpose()
        ):  # fmt: skip
            return None
        case _:
            raise missing_rule(op, "beginnings of linear maps")


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


def _factors(op: ops.Scale) -> tuple[Array, int, int]:
    """Return the factor of each entry, its roundings, and 1; 0 if all factors are of one size."""
    factor = np.broadcast_to(op.factor, op.shape).ravel()
    uneven = int(np.ptp(np.abs(factor)) > 0.0)
    with np.errstate(over="ignore", divide="ignore"):
        return (1.0 / factor, 1, uneven) if op.divide else (factor, 0, uneven)


def _in_range(run: LinearRun) -> LinearRun | None:
    return run if _all_in_range(run.weight) else None


def _all_in_range(values: Array) -> bool:
    sizes = np.abs(values)
    return bool(((sizes == 0.0) | ((sizes >= SMALLEST) & (sizes <= LARGEST))).all())
