"""Rounding errors of an evaluation: the recursion of ``docs/certificate.md``, section 4, in balls.

For every input with ‖x‖_q <= ρ, each tensor carries V >= ‖ẑ‖_q, the size of the computed value, and
D >= ‖ẑ - z‖_q, its distance from the exact value, both of the form constant + slope·ρ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flint import arb

from lipmodel.network import ops
from lipmodel.network.execution import Float
from lipmodel.network.ops import Op, missing_rule
from lipmodel.norms import Norm
from lipmodel.verify.exact_numbers import Float64s, exact, largest, norm_ratio, vector_norm
from lipmodel.verify.layer_norms import row_norms
from lipmodel.verify.linear_head import LinearEnd
from lipmodel.verify.lipschitz import Layers, average_norm, factors, shared, steepest


@dataclass(frozen=True)
class Affine:
    """constant + slope·ρ, both >= 0."""

    constant: arb
    slope: arb

    def __add__(self, other: Affine) -> Affine:
        return Affine(self.constant + other.constant, self.slope + other.slope)

    def __mul__(self, factor: arb) -> Affine:
        return Affine(self.constant * factor, self.slope * factor)

    def at(self, size: arb) -> arb:
        """Return the value for ρ = size."""
        return self.constant + self.slope * size


def constant(value: arb) -> Affine:
    """Return a constant function of ρ."""
    return Affine(value, arb(0))


NOTHING = constant(arb(0))


@dataclass(frozen=True)
class Rounding:
    """Proved rounding errors of one network, in one norm q.

    Attributes:
        features: D of the features.
        scores: error that the linear head adds, one per raw score.
        magnitudes: bounds on every intermediate result and partial sum.
        limit: what these must stay below, a quarter of the format's largest number.
    """

    features: Affine
    scores: list[Affine]
    magnitudes: list[Affine]
    limit: float

    def overflows(self, size: arb) -> bool:
        """Return whether some intermediate result is not proved to stay below the limit."""
        return not all(magnitude.at(size) < self.limit for magnitude in self.magnitudes)


def rounding(end: LinearEnd, layers: Layers, norm: Norm, execution: Float = np.float64) -> Rounding:
    """Return bounds on the rounding of the raw scores that end so, of an evaluation in a format."""
    recursion = _Recursion(layers, norm, execution)
    tracks = {end.body.input: (Affine(arb(0), arb(1)), NOTHING)}
    for op in end.body.ops:
        tracks[op.output] = recursion.step(op, [tracks[name] for name in op.inputs])
    size, features = tracks[end.body.output]
    limit = float(recursion.format.max) / 4.0
    return Rounding(features, recursion.scores(end, size), recursion.magnitudes, limit)


class _Recursion:
    def __init__(self, layers: Layers, norm: Norm, execution: Float = np.float64) -> None:
        self.layers, self.norm, self.format = layers, norm, np.finfo(execution)
        self.magnitudes: list[Affine] = [Affine(arb(0), arb(1))]

    def local(
        self, magnitude: Affine, weight: arb, size: Affine, outputs: int, terms: int | None = None
    ) -> Affine:
        """Return γ_k of the magnitude, and η = (2n + 2) τ (1 + max|W| + ‖ẑ‖) of each output for underflow.

        k = n + 2 for results that each sum n products (``terms``) and a constant; k = n = 1 for results that
        are one product, quotient or sum each.
        """
        roundings, terms = (1, 1) if terms is None else (terms + 2, terms)
        relative = roundings * arb(float(self.format.eps)) / 2
        eta = (constant(1 + weight) + size) * ((2 * terms + 2) * arb(float(self.format.smallest_normal)))
        added = magnitude * (relative / (1 - relative)) + eta * norm_ratio(Norm.INF, self.norm, outputs)
        self.magnitudes.append(magnitude + added)
        return added

    def flush(self, op: Op, steps: int = 1) -> Affine:
        """Return the error of operations that only choose: subnormals may be flushed to 0, once a step."""
        each = 2 * steps * arb(float(self.format.smallest_normal))
        return constant(each * norm_ratio(Norm.INF, self.norm, op.size))

    def whole(self, values: Float64s, op: Op) -> Affine:
        """The norm of a constant spread over a whole tensor."""
        return constant(row_norms(np.broadcast_to(values, op.shape).reshape(1, -1), self.norm)[0])

    def step(self, op: Op, inputs: list[tuple[Affine, Affine]]) -> tuple[Affine, Affine]:
        """V and D after one operation: norm·V + offset + local, norm·D + local."""
        size, error = inputs[0]
        norm, offset = arb(1), NOTHING
        match op:
            case ops.Dense() | ops.Conv():
                weight = op.weight if isinstance(op, ops.Dense) else op.kernel
                if op.bias is not None:
                    spatial = [] if isinstance(op, ops.Dense) else [1] * len(op.shape[1:])
                    offset = self.whole(op.bias.reshape(-1, *spatial), op)
                norms = self.layers[op.output]
                norm = norms.norm(self.norm, self.norm)
                magnitude = size * norms.absolute(self.norm) + offset
                entry = arb(float(np.abs(weight).max(initial=0.0)))
                local = self.local(magnitude, entry, size, op.size, weight[0].size)
            case ops.AveragePool():
                norm = average_norm(op, self.norm)
                local = self.local(size * norm, arb(1), size, op.size, op.window.taps)
                self.magnitudes.append(size * arb(op.window.taps))  # the sum, before it is divided
            case ops.Scale() | ops.LeakyRelu():
                # Slopes of at most 1 leave an entry's size and its error as they are at worst.
                norm = largest(factors(op)) if isinstance(op, ops.Scale) else steepest(op)
                local = self.local(size * norm, norm, size, op.size)
            case ops.Shift():
                offset = self.whole(op.offset, op)
                local = self.local(size + offset, arb(1), size, op.size)
            case ops.Sum():
                size, error = size + inputs[1][0], error + inputs[1][1]
                local = self.local(size, arb(1), size, op.size)
            case ops.MaxPool():
                norm = norm_ratio(Norm.INF, self.norm, shared(op))
                local = self.flush(op)
            case ops.Clip():
                # |clip(v)| <= |v| + |clip(0)|
                origin = np.maximum(0.0, 0.0 if op.low is None else op.low)
                offset = self.whole(np.minimum(origin, np.inf if op.high is None else op.high), op)
                local = self.flush(op)
            case ops.Extremum() | ops.Concat():
                # ‖(‖a + bρ‖)‖_q <= ‖(a)‖_q + ‖(b)‖_q ρ, Minkowski
                size, error = self.joined([v for v, _ in inputs]), self.joined([d for _, d in inputs])
                local = self.flush(op)
            case ops.SortingNetwork():
                local = self.flush(op, 1 + len(op.comparators))
            case ops.Abs() | ops.Negate() | ops.Sort() | ops.ReduceExtremum():
                local = self.flush(op)
            case ops.Select() | ops.Reshape() | ops.Transpose():
                return size, error
            case _:
                raise missing_rule(op, "verified rounding errors")
        return size * norm + offset + local, error * norm + local

    def joined(self, parts: list[Affine]) -> Affine:
        constants, slopes = [p.constant for p in parts], [p.slope for p in parts]
        return Affine(vector_norm(constants, self.norm), vector_norm(slopes, self.norm))

    def scores(self, end: LinearEnd, features: Affine) -> list[Affine]:
        """Return the errors that the operations of the linear head add, score by score."""
        count = len(end.rows)
        sizes, errors = [features] * count, [NOTHING] * count
        for op in end.ops:
            norms, constants, terms, entry = [arb(1)] * count, None, None, None
            match op:
                case ops.Dense():
                    norms, constants = row_norms(op.weight, self.norm.dual), op.bias
                    terms, entry = op.weight.shape[1], arb(float(np.abs(op.weight).max(initial=0.0)))
                case ops.Scale():
                    scales = factors(op)
                    norms = scales * count if len(scales) == 1 else scales
                case ops.Shift():
                    constants = op.offset
                case _:  # linear ends are made of these three alone (``linear_head.py``)
                    raise missing_rule(op, "verified rounding errors of a head")
            offsets = [NOTHING] * count
            if constants is not None:
                offsets = [constant(abs(v)) for v in exact(np.broadcast_to(constants, op.shape)).balls()]
            for i, (norm, offset) in enumerate(zip(norms, offsets, strict=True)):
                magnitude = sizes[i] * norm + offset
                local = self.local(magnitude, norm if entry is None else entry, sizes[i], 1, terms)
                sizes[i], errors[i] = magnitude + local, errors[i] * norm + local
        return errors
