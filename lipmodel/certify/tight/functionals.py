"""State of a backward pass: functionals followed through a network, with their rounding errors paid for."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lipmodel.certify.tight import primitives
from lipmodel.certify.tight.primitives import Primitive
from lipmodel.deadline import Deadline
from lipmodel.network.ops import missing_rule
from lipmodel.norms import Array, down, gamma, inflate, up

MANY = 2**20
"""Upper bound on the roundings of any sum here."""

ArgumentBounds = tuple[Array, Array]
"""Bounds (l, u) on each argument of the nonlinearities of a primitive, over the ball."""


@dataclass(frozen=True, eq=False)
class Ball:
    """A closed l_p ball about one input, with bounds on each tensor (by number) over it.

    Attributes:
        radius: r.
        size: upper bound on ‖x'‖_q over the ball.
        centre: each tensor as computed at x; None where it was not computed.
        error: upper bound on ‖ · ‖_q of the computed less the exact tensor at x.
        magnitude: upper bound on the absolute value of every entry over the ball.
        arguments: bounds on the arguments of the nonlinearities, by number of the primitive, once known.
        deadline: deadline of the work on this ball, checked before each step of a backward pass.
    """

    radius: float
    size: float
    centre: list[Array | None]
    error: list[float]
    magnitude: list[float]
    arguments: dict[int, ArgumentBounds] = field(default_factory=dict)
    deadline: Deadline = field(default_factory=Deadline)


class BackwardPass:
    """State of a backward pass: Σ_t <rows_t, t(x')> + constant is never above the functionals on the ball.

    Attributes:
        ball: the ball.
        rows: (R, n) coefficients by number of the tensor.
        constant: (R,) constants.
        relaxations: lower relaxations of c·relu(d) so far, by number of the primitive: c, slope and constant.
    """

    def __init__(self, ball: Ball, start: int, rows: Array) -> None:
        self.ball = ball
        self.rows = {start: rows}
        self.constant = np.zeros(len(rows))
        self.relaxations: dict[int, tuple[Array, Array, Array]] = {}

    def add(self, number: int, rows: Array, roundings: int = 0, weight: Array | None = None) -> None:
        """Add coefficients of a tensor.

        Args:
            number: number of the tensor.
            rows: (R, n) coefficients as computed.
            roundings: each entry may be off by γ_k of what has the absolute sum
            weight: (R,) over the entries, computed itself with fewer than 2^20 roundings.
        """
        if roundings and weight is not None:
            self._pay(number, roundings, weight)
        if number in self.rows:
            rows = self.rows[number] + rows
            self._pay(number, 1, np.abs(rows).sum(axis=1))
        self.rows[number] = rows

    def _pay(self, number: int, roundings: int, weight: Array) -> None:
        # The term 2^-1000 that inflate adds before it is multiplied by the magnitude pays for underflow.
        lost = up(inflate(gamma(roundings) * weight, MANY) * self.ball.magnitude[number])
        self.constant = down(self.constant - lost)

    def add_constant(self, rows: Array, values: Array) -> None:
        """Add <row, values> to the constants, rounded down."""
        n = len(values)
        rounding_slack = inflate(gamma(n + 2) * (np.abs(rows) @ np.abs(values)), n + 4)
        self.constant = down(self.constant + down(rows @ values - rounding_slack))

    def add_constant_terms(self, terms: Array) -> None:
        """Add the sum of each row of terms (R, n) <= 0 to the constants, rounded down."""
        self.constant = down(self.constant - inflate(-terms.sum(axis=1), terms.shape[1]))


class Scatter:
    """The transpose of a gather: coefficients of the copies of an entry, summed.

    Attributes:
        most: maximum number of copies of an entry.
    """

    def __init__(self, primitive: primitives.Gather, size: int) -> None:
        taken = np.flatnonzero(primitive.indices >= 0)
        self._order = taken[np.argsort(primitive.indices[taken], kind="stable")]
        self._entries, self._starts, counts = np.unique(
            primitive.indices[self._order], return_index=True, return_counts=True
        )
        self._size = size
        self.most = int(counts.max(initial=1))

    def __call__(self, rows: Array) -> Array:
        """Return coefficients (R, size) of the entries from those (R, n) of the copies."""
        result = np.zeros((len(rows), self._size))
        if len(self._entries):
            given = rows[:, self._order]
            result[:, self._entries] = (
                given if self.most == 1 else np.add.reduceat(given, self._starts, axis=1)
            )
        return result


def bound_magnitude(primitive: Primitive, inputs: list[float]) -> float:
    """Return an upper bound on the entries of a tensor that has no name, from those on its inputs."""
    largest = max(inputs)
    match primitive:
        case primitives.Matrix():
            total = inflate(
                np.abs(primitive.weight).sum(axis=1).max() * largest, primitive.weight.shape[1] + 1
            )
            return float(up(total + (0.0 if primitive.bias is None else np.abs(primitive.bias).max())))
        case primitives.Factor():
            factor = (
                inflate(1.0 / np.abs(primitive.factor), 1) if primitive.divide else np.abs(primitive.factor)
            )
            return float(up(factor.max() * largest))
        case primitives.Offset():
            return float(up(largest + np.abs(primitive.offset).max()))
        case primitives.Plus():
            return float(up(2.0 * largest))
        case primitives.Gather() | primitives.Join() | primitives.Relu() | primitives.CompareExchange():
            return largest  # rearranged, joined, cut off at 0
        case _:
            raise missing_rule(primitive, "magnitudes")
