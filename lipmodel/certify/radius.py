"""From scores and bounds to a certified radius, rounded towards safety.

For the largest raw score i and any j of another class than i's, with m_j = ŷ_i - ŷ_j as computed,
E°_ij(ρ) its rounding error, E_ij(ρ) = A_ij + B_ij ρ that of the evaluations the radius speaks of (both
for inputs of size ρ), κ = sup ‖v‖_q / ‖v‖_p and L_ij the Lipschitz constant:

    r = min over j of (m_j - E°_ij(ρ) - E_ij(ρ)) / (L_ij + κ B_ij),        0 where that is not positive.

For ‖x' - x‖_p <= r: ŷ_i(x') - ŷ_j(x') >= F_i(x') - F_j(x') - E(ρ + κr)
>= F_i(x) - F_j(x) - L r - E(ρ + κr) >= m_j - E°(ρ) - E(ρ) - (L + κB) r > 0. So inside r score i stays
above the scores of all other classes, and every evaluation in the format of E gives the same answer.
A radius of 0 means *abstain*: nothing is certified; the label is still given.
"""

from __future__ import annotations

from functools import cached_property
from math import inf, isfinite, sqrt
from typing import Any, NamedTuple

import numpy as np

from lipmodel.certify.head import Indices
from lipmodel.certify.lipschitz import LipschitzBounds
from lipmodel.certify.rounding import Affine, RoundingBounds
from lipmodel.norms import (
    MIN_DISTANCE,
    Array,
    Norm,
    bound_equivalence,
    down,
    inflate,
    up,
    vector_norm,
)

FEW_SCORES = 512
"""Up to so many scores what depends on no input is kept for every pair; beyond, it is computed again."""
SCORES_IN_FLOATS = 32
"""Up to so many scores one input alone is cheaper in Python's floats than in numpy's arrays."""


class Radii(NamedTuple):
    """What is certified of N inputs.

    Attributes:
        label: (N,) index of the class of the largest score (the first of equals).
        margin: (N,) its score less the largest of another class, rounded down.
        certified_radius: (N,) in the l_p norm of the input; 0 means that nothing is certified.
        runner_up: (N,) index of the class that sets the radius; where nothing is certified, the
            class of the second largest score.
    """

    label: Indices
    margin: Array
    certified_radius: Array
    runner_up: Indices


class RadiusRule:
    """The formula for one model and norm; what depends on no input is computed once.

    Attributes:
        owners: (M,) the class of each raw score; -1 for one that belongs to none; see ``head.py``.
        lipschitz: bounds in the norm p that radii are wanted in.
        evaluated: error bounds for the format that scores were computed in, E°.
        promised: the same for the evaluations that the radius speaks of, E; often the same bounds. Both
            measure the size ρ of an input in one norm q.
        kappa: κ.
    """

    def __init__(
        self,
        owners: Indices,
        lipschitz: LipschitzBounds,
        evaluated: RoundingBounds,
        promised: RoundingBounds | None = None,
        *,
        input_size: int,
    ) -> None:
        self.owners, self.lipschitz = owners, lipschitz
        self.evaluated, self.promised = evaluated, promised or evaluated
        if self.evaluated.norm is not self.promised.norm:
            raise ValueError("both error bounds must measure inputs in the same norm")
        self.kappa = bound_equivalence(lipschitz.norm, self.promised.norm, input_size)
        self._input_size, self._least = input_size, MIN_DISTANCE[lipschitz.norm]
        self._all_owned = bool((owners >= 0).all())
        self._table: Array | None = None
        self._floats: RuleInFloats | None = None

    @property
    def ready(self) -> bool:
        """Whether what depends on no input is known; for thousands of scores that takes seconds."""
        return self._table is not None or "bound_per_score_pair" in vars(self.lipschitz)

    def __call__(self, scores: Array, inputs: Array) -> Radii:
        """Certifies a batch.

        Args:
            scores: (N, M) raw scores as computed.
            inputs: (N, d), the float64 numbers that they were computed from.
        """
        if self._floats is not None and len(scores) == 1:
            x = inputs[0]  # in l2 its size is one call of BLAS, the one that vecdot makes
            size = sqrt(x.dot(x)) if self.promised.norm is Norm.TWO else float(self._size(inputs)[0])
            radii = self._floats(scores.tolist()[0], size)
            if radii is not None:
                return radii
        return self._of_batch(scores, inputs)

    @np.errstate(all="ignore")  # what overflows or is no number certifies nothing
    def _of_batch(self, scores: Array, inputs: Array) -> Radii:
        if not self._all_owned:
            scores = np.where(self.owners >= 0, scores, -np.inf)
        best = scores.argmax(axis=1)
        terms, size = self._terms_of(best), self._size(inputs)
        leads = scores.max(axis=1, keepdims=True) - scores
        leads += terms.own
        reach = terms.reach(leads, size[:, None])
        radius = for_clients(np.minimum(reach.min(axis=1), self._overflow_radius(size)), self._input_size)
        runner_up = reach.argmin(axis=1)
        certified = radius > self._least  # NaN compares false
        if not certified.all():
            radius = np.where(certified, radius, 0.0)
            runner_up = np.where(certified, runner_up, leads.argmin(axis=1))
        return Radii(
            label=self.owners[best],
            margin=leads.min(axis=1) * (1.0 - 2.0**-52),
            certified_radius=radius,
            runner_up=self.owners[runner_up],
        )

    @np.errstate(all="ignore")
    def reach_of_pairs(self, scores: Array, x: Array, first: Indices, second: Indices) -> Array:
        """How far a change of one input x (d,) must go before score j may pass score i.

        Args:
            scores: (M,) at x.
            x: the input.
            first: i, and
            second: j: arrays that broadcast against one another to the shape of the result.
        """
        return self._terms(first, second).reach(scores[first] - scores[second], self._size(x[None]))

    @np.errstate(all="ignore")
    def overflow_radius(self, inputs: Array) -> Array:
        """(N,) the largest r for which nothing overflows: peak(ρ + κr) < limit, and at x itself for E°."""
        return self._overflow_radius(self._size(inputs))

    def _overflow_radius(self, size: Array) -> Array:
        room: Array = self._room.constant - self._room.slope * size
        if self.evaluated is self.promised:
            return room
        return np.where(self.evaluated.peak.at(size) < self.evaluated.limit / 2.0, room, 0.0)

    @cached_property
    def _room(self) -> Affine:
        """(limit - peak(ρ)) / (slope of the peak · κ), as constant - slope·ρ, both rounded to safety."""
        peak, limit = self.promised.peak, self.promised.limit
        most = down(down(down(limit - peak.constant) / peak.slope) / self.kappa)
        return Affine(most, inflate(1.0 / self.kappa, self._input_size + 4))

    def _size(self, inputs: Array) -> Array:
        """(N,) ‖x‖_q as computed; what it may lack is paid for where it is used, see ``_terms``."""
        return vector_norm(inputs, self.promised.norm, axis=1)

    def _terms_of(self, best: Indices) -> Terms:
        """Those of scores (N,) against every score; of a model with few scores looked up."""
        if len(self.owners) > FEW_SCORES:
            return self._terms(best, None)
        if self._table is None:
            self._table = np.stack(self._terms(np.arange(len(self.owners)), None), axis=1)
            if self.evaluated is self.promised and len(self.owners) <= SCORES_IN_FLOATS:
                self._floats = rule_in_floats(
                    self.owners, self._table, self._room, self._input_size, self._least
                )
        found = self._table.take(best, axis=0)
        return Terms(found[:, 0], found[:, 1], found[:, 2], found[:, 3])

    def _terms(self, first: Indices, second: Indices | None) -> Terms:
        """For pairs as in ``RoundingBounds.pair_line``.

        E is inflated for the roundings of A + Bρ and for what ρ lacks: those of its own sum, and
        squares that fell below the smallest normal number, together less than 2^-490. The denominator is
        inflated for the roundings of the numerator and of the quotient, and to be strictly inside,
        which covers ties.
        """
        promised = self.promised.pair_line(first, second)
        same = self.evaluated is self.promised
        error = promised + (promised if same else self.evaluated.pair_line(first, second))
        speed = self.lipschitz.bound_per_score_pair[first if second is None else (first, second)]
        theirs = self.owners if second is None else self.owners[second]
        own = (self.owners[first[:, None] if second is None else first] == theirs) | (theirs < 0)
        roundings = self._input_size + 6
        return Terms(
            constant=np.where(own, 0.0, inflate(error.constant + up(error.slope * 2.0**-490), roundings)),
            slope=np.where(own, 0.0, inflate(error.slope, roundings)),
            speed=np.where(own, 1.0, inflate(speed + up(self.kappa * promised.slope), 6)),
            own=np.where(own, np.inf, 0.0),
        )


class Terms(NamedTuple):
    """What the formula takes for pairs of scores i and j; arrays of one shape.

    Attributes:
        constant, slope: E°_ij + E_ij, as a function of ρ.
        speed: L_ij + κB_ij.
        own: infinity where j is of i's class, or of none, so that it never sets the radius; else 0.
    """

    constant: Array
    slope: Array
    speed: Array
    own: Array

    def reach(self, leads: Array, size: Array) -> Array:
        """(m - E° - E) / (L + κB), rounded down, of leads ŷ_i - ŷ_j as computed and inputs of size ρ.

        The lead rounded once and is taken down by four half units, the fourth for this product.
        """
        error = self.slope * size
        error += self.constant
        room = leads * (1.0 - 2.0**-51)
        room -= error
        room /= self.speed
        return room


class RuleInFloats(NamedTuple):
    """The formula for one input and few scores: the operations of :class:`RadiusRule`, one by one.

    Python's floats are the same IEEE 754 doubles as numpy's, so each number is the same bit for bit; what is
    saved is the start of twenty array operations, which on one row is nearly all that they cost.

    Attributes:
        owners: of the scores.
        pairs: for every score i, of the scores j of other classes in turn: j, and the terms of i and j.
        room: that of the largest r for which nothing overflows.
        factor: what :func:`for_clients` multiplies by.
        least: radii up to this are given as 0.
    """

    owners: list[int]
    pairs: list[list[tuple[int, float, float, float]]]
    room: Affine
    factor: float
    least: float

    def __call__(self, scores: list[float], size: float) -> Radii | None:
        """Certifies one input of that size; None where its scores are not all finite."""
        if not isfinite(sum(scores)):
            return None
        top = max(scores)
        best = scores.index(top)
        margin = reach = inf
        second = nearest = 0
        for j, constant, slope, speed in self.pairs[best]:
            lead = top - scores[j]
            if lead < margin:
                margin, second = lead, j
            # Never a NaN, which "<" would pass over: terms are finite, so at most an error overflows.
            room = (lead * (1.0 - 2.0**-51) - (slope * size + constant)) / speed
            if room < reach:
                reach, nearest = room, j
        radius = min(reach, self.room.constant - self.room.slope * size) * self.factor
        if not radius > self.least:
            radius, nearest = 0.0, second
        return Radii(
            label=np.array([self.owners[best]]),
            margin=np.array([margin * (1.0 - 2.0**-52)]),
            certified_radius=np.array([radius]),
            runner_up=np.array([self.owners[nearest]]),
        )


def rule_in_floats(
    owners: Indices, table: Array, room: Affine, input_size: int, least: float
) -> RuleInFloats | None:
    """That of (M, 4, M) terms; None where they are not all finite numbers, or a score belongs to no class.

    Of those the formula is left to arrays, in which whatever is no number certifies nothing.
    """
    constant, slope, speed, own = (table[:, i] for i in range(4))
    terms = constant, slope, speed, np.array([room.constant, room.slope])
    if not all(np.isfinite(term).all() for term in terms) or not (speed > 0.0).all() or (owners < 0).any():
        return None
    columns = [term.tolist() for term in (constant, slope, speed)]
    others = [np.flatnonzero(row == 0.0).tolist() for row in own]
    pairs = [[(j, *(column[i][j] for column in columns)) for j in row] for i, row in enumerate(others)]
    if not all(pairs):
        return None
    line = Affine(float(room.constant), float(room.slope))
    return RuleInFloats(owners.tolist(), pairs, line, for_clients(1.0, input_size), least)


def for_clients(radius: Any, size: int) -> Any:
    """A radius less what a caller who measures distance in float64 may find it short by, in that size.

    It is that of (size + 4) half units twice, and two more for the roundings here and before.
    """
    return radius * (1.0 - (size + 6) * 2.0**-52)


def bound_input_rounding(given: Array, rounded: Array, norm: Norm) -> Array:
    """Never below how much farther a change may be once float32 has rounded x and x', but for u of it.

    x' within r of x as doubles lies, rounded, within r(1 + u) + ‖x - fl(x)‖ + u‖x‖ + d^{1/p} 2⁻¹⁴⁹
    of fl(x) (u = 2⁻²⁴; the last term covers subnormal results). Where no input of a row needed
    rounding the same holds, since x' may.

    Args:
        given: (N, d) as sent.
        rounded: (N, d) as evaluated.
        norm: of the radii.

    Returns:
        (N,) bounds on all of this but r(1 + u).
    """
    away = given - rounded
    moved = vector_norm(away, norm, axis=1) if away.any() else 0.0
    # Norms as computed are off by (d + 2) half units of float64, and by less than 2^-490 where squares
    # underflow: the factor pays for the first and for the roundings here, doubling the last term for the
    # second.
    tiny = 2.0 * bound_equivalence(Norm.INF, norm, given.shape[1]) * 2.0**-149
    bound = (moved + 2.0**-24 * vector_norm(given, norm, axis=1)) * (1.0 + 2.0**-20) + tiny
    return np.asarray(bound)


def after_rounding_inputs(radius: Array, taken: Array) -> Array:
    """Return radii about float32 inputs less the rounding of doubles that callers send.

    Args:
        radius: (N,) certified about the rounded inputs.
        taken: (N,) :func:`bound_input_rounding` of them.
    """
    # The exact r' = (r - taken) / (1 + u) is more than (r - taken)(1 - 2^-24), so this is less than r'.
    return np.maximum((radius - taken) * (1.0 - 2.0**-22), 0.0)
