"""Functionals on their way back through a network: what they have become, and what rounding cost them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lipmodel.certify.tight import primitives as pieces
from lipmodel.certify.tight.primitives import Piece
from lipmodel.deadline import Deadline
from lipmodel.network.ops import missing_rule
from lipmodel.norms import Array, down, gamma, inflate, up

MANY = 2**20
"""Roundings that any sum here stays below."""

Kinks = tuple[Array, Array]
"""Bounds (l, u) on each argument of the kinks of a piece, over the ball."""


@dataclass(frozen=True, eq=False)
class Ball:
    """A closed l_p ball about one input, and what is known of each tensor (by number) on it.

    Attributes:
        radius: r.
        size: never below ‖x'‖_q over the ball.
        centre: what each tensor was computed to be at x; None where that was not asked for.
        error: never below ‖ · ‖_q of that less the exact value.
        reach: never below the largest entry, in absolute value, over the ball.
        kinks: bounds on the arguments of the kinks of a piece, as they become known.
        deadline: of the work on this ball, checked before each step of a way.
    """

    radius: float
    size: float
    centre: list[Array | None]
    error: list[float]
    reach: list[float]
    kinks: dict[int, Kinks] = field(default_factory=dict)
    deadline: Deadline = field(default_factory=Deadline)


class Way:
    """Where some functionals have got to: Σ_t <rows_t, t(x')> + constant is never above them on the ball.

    Attributes:
        ball: where.
        rows: by number of tensor, (R, n).
        constant: (R,).
        lines: by number of a piece, what was put below bend·relu(d) so far: bend, slope and constant.
    """

    def __init__(self, ball: Ball, start: int, rows: Array) -> None:
        self.ball = ball
        self.rows = {start: rows}
        self.constant = np.zeros(len(rows))
        self.lines: dict[int, tuple[Array, Array, Array]] = {}

    def add(self, number: int, rows: Array, roundings: int = 0, weight: Array | None = None) -> None:
        """Passes on to a tensor.

        Args:
            number: of the tensor.
            rows: (R, n) as computed.
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
        # The term 2^-1000 that inflate adds before it is multiplied by the reach pays for underflow.
        lost = up(inflate(gamma(roundings) * weight, MANY) * self.ball.reach[number])
        self.constant = down(self.constant - lost)

    def add_constant(self, rows: Array, values: Array) -> None:
        """Adds <row, values>, rounded down."""
        n = len(values)
        doubt = inflate(gamma(n + 2) * (np.abs(rows) @ np.abs(values)), n + 4)
        self.constant = down(self.constant + down(rows @ values - doubt))

    def add_constant_terms(self, terms: Array) -> None:
        """Adds the sum of each row of terms (R, n) <= 0, rounded down."""
        self.constant = down(self.constant - inflate(-terms.sum(axis=1), terms.shape[1]))


class Scatter:
    """The transpose of a gather: what was given to copies of an entry, summed.

    Attributes:
        most: how often an entry is taken, at most.
    """

    def __init__(self, piece: pieces.Gather, size: int) -> None:
        taken = np.flatnonzero(piece.indices >= 0)
        self._order = taken[np.argsort(piece.indices[taken], kind="stable")]
        self._entries, self._starts, counts = np.unique(
            piece.indices[self._order], return_index=True, return_counts=True
        )
        self._size = size
        self.most = int(counts.max(initial=1))

    def __call__(self, rows: Array) -> Array:
        """(R, size) from (R, n)."""
        result = np.zeros((len(rows), self._size))
        if len(self._entries):
            given = rows[:, self._order]
            result[:, self._entries] = (
                given if self.most == 1 else np.add.reduceat(given, self._starts, axis=1)
            )
        return result


def bound_reach(piece: Piece, inputs: list[float]) -> float:
    """Never below the largest entry of a tensor in between, from those of its inputs."""
    largest = max(inputs)
    match piece:
        case pieces.Matrix():
            total = inflate(np.abs(piece.weight).sum(axis=1).max() * largest, piece.weight.shape[1] + 1)
            return float(up(total + (0.0 if piece.bias is None else np.abs(piece.bias).max())))
        case pieces.Factor():
            factor = inflate(1.0 / np.abs(piece.factor), 1) if piece.divide else np.abs(piece.factor)
            return float(up(factor.max() * largest))
        case pieces.Offset():
            return float(up(largest + np.abs(piece.offset).max()))
        case pieces.Plus():
            return float(up(2.0 * largest))
        case pieces.Gather() | pieces.Join() | pieces.Relu() | pieces.Exchange():
            return largest  # rearranged, joined, cut off at 0
        case _:
            raise missing_rule(piece, "magnitudes")
