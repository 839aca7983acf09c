"""Linear maps in a row, bounded as one: ``docs/certificate.md``, section 2, in balls.

Where nothing nonlinear lies between a tensor z and a tensor t, t(x) - t(x') = W (z(x) - z(x')), W the product
of the maps, and L_t <= ‖W‖_{s→t} L_s(z) for every s. The scale of a threat set is one more map in front of
the input: x' - x = s∘u, with frozen columns left out of u.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from flint import arb, arb_mat

from lipmodel.network import ops
from lipmodel.network.ops import Op, missing_rule
from lipmodel.norms import Norm
from lipmodel.threat import Threat
from lipmodel.verify.exact_numbers import exact, norm_ratio, reciprocal, vector_norm
from lipmodel.verify.layer_norms import MatrixNorms


@dataclass(frozen=True)
class Diagonal:
    """A map that scales entries: entry places[k] of the result is factors[k] times entry k."""

    factors: list[arb]
    places: list[int]


@dataclass(frozen=True)
class LinearMaps:
    """A tensor t = W z + constant.

    Attributes:
        source: name of z; None for u.
        scale: the scale of the threat set, where z is u.
        ops: the operations from z to t that change differences.
    """

    source: str | None
    scale: Diagonal | None
    ops: tuple[ops.Dense | ops.Scale, ...]

    @property
    def count(self) -> int:
        """Return the number of maps, without scalings of all entries alike, whose norms multiply exactly."""
        uneven = [op for op in self.ops if isinstance(op, ops.Dense) or np.ptp(np.abs(op.factor)) > 0.0]
        return len(uneven) + (self.scale is not None)

    def then(self, op: Op) -> LinearMaps | None:
        """Return the maps with one more operation; None where it is not linear."""
        match op:
            case ops.Dense() if len(op.shape) == 1:
                return replace(self, ops=(*self.ops, op))
            case ops.Scale():
                return replace(self, ops=(*self.ops, op))
            case ops.Shift() | ops.Reshape() | ops.Negate():  # the sign changes no norm
                return self
            case (
                ops.Dense() | ops.Conv() | ops.AveragePool() | ops.MaxPool() | ops.LeakyRelu() | ops.Clip()
                | ops.Abs() | ops.Sort() | ops.SortingNetwork() | ops.Extremum() | ops.ReduceExtremum()
                | ops.Sum() | ops.Concat() | ops.Select() | ops.Transpose()
            ):  # fmt: skip
                return None
            case _:
                raise missing_rule(op, "verified linear maps")

    @cached_property
    def _product(self) -> Diagonal | arb_mat:
        """W; computed where it is asked for."""
        product: Diagonal | arb_mat | None = self.scale
        for op in self.ops:
            if isinstance(op, ops.Dense):
                m, n = op.weight.shape
                weight = arb_mat(m, n, [arb(v) for v in op.weight.ravel().tolist()])
                product = weight if product is None else _times(weight, product)
                continue
            value = reciprocal(op.factor) if op.divide else exact(op.factor)
            numerators = np.broadcast_to(value.numerators, op.shape).ravel()
            factors = [arb(int(v)) / value.denominator for v in numerators]
            if product is None:
                product = Diagonal(factors, list(range(op.size)))
            elif isinstance(product, Diagonal):
                pairs = zip(product.places, product.factors, strict=True)
                product = Diagonal([factors[place] * factor for place, factor in pairs], product.places)
            else:
                n, entries = product.ncols(), product.entries()
                scaled = [factors[k // n] * entry for k, entry in enumerate(entries)]
                product = arb_mat(len(factors), n, scaled)
        assert product is not None
        return product

    @cached_property
    def _near(self) -> tuple[MatrixNorms, arb]:
        """A matrix of float64 numbers, and its distance from W in the Frobenius norm."""
        assert isinstance(self._product, arb_mat)
        entries = self._product.entries()
        near = [float(entry.mid()) for entry in entries]
        away = [entry - arb(value) for entry, value in zip(entries, near, strict=True)]
        shape = self._product.nrows(), self._product.ncols()
        return MatrixNorms(np.array(near).reshape(shape)), vector_norm(away, Norm.TWO)

    def norm(self, source: Norm, target: Norm) -> arb:
        """At least ‖W‖_{source→target}."""
        if isinstance(self._product, Diagonal):
            return scaling_norm(self._product.factors, source, target)
        near, off = self._near
        m, n = near.weight.shape
        away = off * norm_ratio(source, Norm.TWO, n) * norm_ratio(Norm.TWO, target, m)
        return near.norm(source, target) + away

    def row(self, row: Sequence[arb]) -> list[arb]:
        """Return the coefficients in z of <row, t>."""
        product = self._product
        if isinstance(product, Diagonal):
            return [
                row[place] * factor for place, factor in zip(product.places, product.factors, strict=True)
            ]
        return list((arb_mat(1, len(row), list(row)) * product).entries())


def _times(weight: arb_mat, product: Diagonal | arb_mat) -> arb_mat:
    if isinstance(product, arb_mat):
        return weight * product
    m, n, entries = weight.nrows(), weight.ncols(), weight.entries()
    pairs = list(zip(product.places, product.factors, strict=True))
    return arb_mat(
        m, len(pairs), [entries[i * n + place] * factor for i in range(m) for place, factor in pairs]
    )


def threat_maps(threat: Threat) -> LinearMaps | None:
    """Return the map from u to s∘u without frozen columns; None for a ball."""
    if threat.scale is None:
        return None
    changed = [(arb(s), k) for k, s in enumerate(threat.scale) if s]
    factors, places = map(list, zip(*changed, strict=True))
    return LinearMaps(None, Diagonal(factors, places), ())


def change_norm(threat: Threat, target: Norm, size: int) -> arb:
    """At least ‖x' - x‖_target of changes of size 1: sup ‖s∘u‖_t / ‖u‖_p."""
    if threat.scale is None:
        return norm_ratio(threat.norm, target, size)
    return scaling_norm([arb(s) for s in threat.scale], threat.norm, target)


def scaling_norm(factors: list[arb], source: Norm, target: Norm) -> arb:
    """The norm of a diagonal matrix: the largest factor for t >= s, else ‖·‖_e, 1/e = 1/t - 1/s (Hölder)."""
    order = [Norm.INF, Norm.TWO, Norm.ONE]
    steps = max(0, order.index(target) - order.index(source))
    return vector_norm(factors, order[steps])
