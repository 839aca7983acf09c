"""From scores and bounds to a certified radius, rounded towards safety.

For the largest raw score i and any j of another class than i's, with m_j = ŷ_i - ŷ_j as computed,
E°_ij(ρ) its rounding error, E_ij(ρ) = A_ij + B_ij ρ that of the evaluations the radius speaks of (both
for inputs of size ρ), κ = sup ‖s∘u‖_q / ‖u‖_p over the changes x' - x = s∘u of the threat set, and L_ij the
Lipschitz constant in u:

    r = min over j of (m_j - E°_ij(ρ) - E_ij(ρ)) / (L_ij + κ B_ij),        0 where that is not positive.

For ‖u‖_p <= r: ŷ_i(x') - ŷ_j(x') >= F_i(x') - F_j(x') - E(ρ + κr)
>= F_i(x) - F_j(x) - L r - E(ρ + κr) >= m_j - E°(ρ) - E(ρ) - (L + κB) r > 0. So inside r score i stays
above the scores of all other classes, and every evaluation in the format of E gives the same answer.
A radius of 0 means *abstain*: nothing is certified; the label is still given.
"""

from __future__ import annotations

from functools import cached_property
from math import inf, isfinite, sqrt
from typing import NamedTuple

import numpy as np

from lipmodel.certify.head import Indices
from lipmodel.certify.linear_runs import bound_change, bound_scaling
from lipmodel.certify.lipschitz import LipschitzBounds
from lipmodel.certify.rounding import Affine, RoundingBounds
from lipmodel.norms import (
    Array,
    Norm,
    bound_equivalence,
    down,
    inflate,
    up,
    vector_norm,
)
from lipmodel.threat import Threat, as_threat

FEW_SCORES = 512
"""Maximum scores for which the terms of every pair are kept; with more they are computed again."""
SCORES_IN_FLOATS = 32
"""Maximum scores for which one input alone is cheaper in Python's floats than in numpy's arrays."""


class Radii(NamedTuple):
    """Certified radii of N inputs.

    Attributes:
        label: (N,) index of the class of the largest score (the first of equals).
        margin: (N,) score of that class less the largest score of another class, rounded down.
        certified_radius: (N,) size of a change in the units of the threat set; 0 certifies nothing.
        runner_up: (N,) index of the class that sets the radius; where nothing is certified, the
            class of the second largest score.
    """

    label: Indices
    margin: Array
    certified_radius: Array
    runner_up: Indices


class RadiusRule:
    """The radius formula for one model and threat set; terms that depend on no input are computed once.

    Attributes:
        owners: (M,) the class of each raw score; -1 for one that belongs to none; see ``head.py``.
        lipschitz: bounds for the threat set of the radii.
        evaluated: error bounds E° for the format that scores were computed in.
        promised: error bounds E for the evaluations that the radius speaks of, often the same bounds. Both
            measure the size ρ of an input in one norm q.
        kappa: κ.
        client_factor: factor of every radius, see :func:`client_factor`.
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
        threat = self.threat = lipschitz.threat
        self.kappa = bound_change(threat, self.promised.norm, input_size)
        self._input_size, self._least = input_size, threat.min_distance
        self.client_factor = client_factor(threat, input_size)
        self._all_owned = bool((owners >= 0).all())
        self._table: Array | None = None
        self._floats: RuleInFloats | None = None

    @property
    def ready(self) -> bool:
        """Return whether the terms that depend on no input are known: they may take seconds."""
        return self._table is not None or "bound_per_score_pair" in vars(self.lipschitz)

    def __call__(self, scores: Array, inputs: Array) -> Radii:
        """Return the certified radii of a batch.

        Args:
            scores: (N, M) raw scores as computed.
            inputs: (N, d) float64 inputs that the scores were computed from.
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
        margins = scores.max(axis=1, keepdims=True) - scores
        margins += terms.excluded
        pair_radius = self._widened(terms.pair_radius(margins, size[:, None]), best, scores, inputs)
        radius = np.minimum(pair_radius.min(axis=1), self._overflow_radius(size)) * self.client_factor
        runner_up = pair_radius.argmin(axis=1)
        certified = radius > self._least  # NaN compares false
        if not certified.all():
            radius = np.where(certified, radius, 0.0)
            runner_up = np.where(certified, runner_up, margins.argmin(axis=1))
        return Radii(
            label=self.owners[best],
            margin=margins.min(axis=1) * (1.0 - 2.0**-52),
            certified_radius=radius,
            runner_up=self.owners[runner_up],
        )

    def located(self, inputs: Array) -> Array:
        """Return inputs (N, d) as evaluations see them, behind a Clip if there is one; here as they are."""
        return inputs

    def _widened(self, pair_radius: Array, best: Indices, scores: Array, inputs: Array) -> Array:
        """Return pair radii (N, M), larger where something else proves them; here as they are."""
        return pair_radius

    @np.errstate(all="ignore")
    def pair_radii(self, scores: Array, x: Array, first: Indices, second: Indices) -> Array:
        """Return radii about one input x (d,) within which score j stays below score i.

        Args:
            scores: (M,) raw scores at x.
            x: the input.
            first: i, and
            second: j: arrays that broadcast against one another to the shape of the result.
        """
        return self._terms(first, second).pair_radius(scores[first] - scores[second], self._size(x[None]))

    @np.errstate(all="ignore")
    def overflow_radius(self, inputs: Array) -> Array:
        """Return (N,) the largest r without overflow: magnitude(ρ + κr) < limit, and at x itself for E°."""
        return self._overflow_radius(self._size(inputs))

    def _overflow_radius(self, size: Array) -> Array:
        slack: Array = self._overflow_slack.constant - self._overflow_slack.slope * size
        if self.evaluated is self.promised:
            return slack
        return np.where(self.evaluated.magnitude.at(size) < self.evaluated.limit / 2.0, slack, 0.0)

    @cached_property
    def _overflow_slack(self) -> Affine:
        """Return (limit - magnitude(ρ)) / (slope of magnitude · κ), constant - slope·ρ, rounded to safety."""
        magnitude, limit = self.promised.magnitude, self.promised.limit
        largest = down(down(down(limit - magnitude.constant) / magnitude.slope) / self.kappa)
        return Affine(largest, inflate(1.0 / self.kappa, self._input_size + 4))

    def _size(self, inputs: Array) -> Array:
        """Return (N,) ‖x‖_q as computed; its rounding is paid for in :meth:`_terms`."""
        return vector_norm(inputs, self.promised.norm, axis=1)

    def _terms_of(self, best: Indices) -> PairTerms:
        """Return the terms of scores (N,) against every score; with few scores from a table."""
        if len(self.owners) > FEW_SCORES:
            return self._terms(best, None)
        if self._table is None:
            self._table = np.stack(self._terms(np.arange(len(self.owners)), None), axis=1)
            if self.evaluated is self.promised and len(self.owners) <= SCORES_IN_FLOATS:
                self._floats = rule_in_floats(
                    self.owners, self._table, self._overflow_slack, self.client_factor, self._least
                )
        found = self._table.take(best, axis=0)
        return PairTerms(found[:, 0], found[:, 1], found[:, 2], found[:, 3])

    def _terms(self, first: Indices, second: Indices | None) -> PairTerms:
        """Return the terms for pairs as in ``RoundingBounds.pair_coefficients``.

        E is inflated for the roundings of A + Bρ and for the error of ρ: roundings of its own sum, and
        squares that fell below the smallest normal number, together less than 2^-490. The denominator is
        inflated for the roundings of the numerator and of the quotient, and to be strictly inside,
        which covers ties.
        """
        promised = self.promised.pair_coefficients(first, second)
        same = self.evaluated is self.promised
        error = promised + (promised if same else self.evaluated.pair_coefficients(first, second))
        lipschitz = self.lipschitz.bound_per_score_pair[first if second is None else (first, second)]
        theirs = self.owners if second is None else self.owners[second]
        excluded = (self.owners[first[:, None] if second is None else first] == theirs) | (theirs < 0)
        roundings = self._input_size + 6
        return PairTerms(
            constant=np.where(
                excluded, 0.0, inflate(error.constant + up(error.slope * 2.0**-490), roundings)
            ),
            slope=np.where(excluded, 0.0, inflate(error.slope, roundings)),
            lipschitz=np.where(excluded, 1.0, inflate(lipschitz + up(self.kappa * promised.slope), 6)),
            excluded=np.where(excluded, np.inf, 0.0),
        )


class PairTerms(NamedTuple):
    """Terms of the formula for pairs of scores i and j; arrays of one shape.

    Attributes:
        constant, slope: E°_ij + E_ij, as a function of ρ.
        lipschitz: L_ij + κB_ij.
        excluded: infinity where j is of i's class, or of none, so that it never sets the radius; else 0.
    """

    constant: Array
    slope: Array
    lipschitz: Array
    excluded: Array

    def pair_radius(self, margins: Array, size: Array) -> Array:
        """Return (m - E° - E) / (L + κB), rounded down, for margins ŷ_i - ŷ_j as computed and sizes ρ.

        The margin rounded once and is taken down by four half units, the fourth for this product.
        """
        error = self.slope * size
        error += self.constant
        pair_radius = margins * (1.0 - 2.0**-51)
        pair_radius -= error
        pair_radius /= self.lipschitz
        return pair_radius


class RuleInFloats(NamedTuple):
    """The formula for one input and few scores: the operations of :class:`RadiusRule`, one by one.

    Python's floats are the same IEEE 754 doubles as numpy's, so each number is the same bit for bit; this
    saves the start of twenty array operations, which on one row is nearly all that they cost.

    Attributes:
        owners: class of each score.
        pairs: for every score i, j and the terms of i and j for each score j of another class.
        slack: the largest r without overflow, as constant - slope·ρ.
        factor: the result of :func:`client_factor`.
        least: radii up to this are given as 0.
    """

    owners: list[int]
    pairs: list[list[tuple[int, float, float, float]]]
    slack: Affine
    factor: float
    least: float

    def __call__(self, scores: list[float], size: float) -> Radii | None:
        """Return the radius of one input of a size; None where its scores are not all finite."""
        if not isfinite(sum(scores)):
            return None
        top = max(scores)
        best = scores.index(top)
        margin = least_radius = inf
        second = nearest = 0
        for j, constant, slope, lipschitz in self.pairs[best]:
            pair_margin = top - scores[j]
            if pair_margin < margin:
                margin, second = pair_margin, j
            # Never a NaN, which "<" would pass over: terms are finite, so at most an error overflows.
            pair_radius = (pair_margin * (1.0 - 2.0**-51) - (slope * size + constant)) / lipschitz
            if pair_radius < least_radius:
                least_radius, nearest = pair_radius, j
        radius = min(least_radius, self.slack.constant - self.slack.slope * size) * self.factor
        if not radius > self.least:
            radius, nearest = 0.0, second
        return Radii(
            label=np.array([self.owners[best]]),
            margin=np.array([margin * (1.0 - 2.0**-52)]),
            certified_radius=np.array([radius]),
            runner_up=np.array([self.owners[nearest]]),
        )


def rule_in_floats(
    owners: Indices, table: Array, slack: Affine, factor: float, least: float
) -> RuleInFloats | None:
    """Return the rule of (M, 4, M) terms; None where a term is not finite, or a score belongs to no class.

    Then the formula is left to arrays, in which NaN certifies nothing.
    """
    constant, slope, lipschitz, excluded = (table[:, i] for i in range(4))
    terms = constant, slope, lipschitz, np.array([slack.constant, slack.slope])
    if (
        not all(np.isfinite(term).all() for term in terms)
        or not (lipschitz > 0.0).all()
        or (owners < 0).any()
    ):
        return None
    columns = [term.tolist() for term in (constant, slope, lipschitz)]
    others = [np.flatnonzero(row == 0.0).tolist() for row in excluded]
    pairs = [[(j, *(column[i][j] for column in columns)) for j in row] for i, row in enumerate(others)]
    if not all(pairs):
        return None
    slack = Affine(float(slack.constant), float(slack.slope))
    return RuleInFloats(owners.tolist(), pairs, slack, factor, least)


def client_factor(threat: Threat, size: int) -> float:
    """Return the factor of a radius that pays for a distance that a caller computes in float64.

    The error of a distance of ``size`` numbers is (size + 4) half units, taken twice, and two more for the
    roundings here and before. Where a caller divides by a scale, each number rounds once more.
    """
    return 1.0 - (size + (6 if threat.scale is None else 8)) * 2.0**-52


def bound_input_rounding(given: Array, rounded: Array, threat: Threat | Norm) -> Array:
    """Return bounds on how much farther a change may be once float32 has rounded x and x', but for u of it.

    x' within r of x as doubles lies, rounded, within r(1 + u) + ‖x - fl(x)‖ + u‖x‖ + d^{1/p} 2⁻¹⁴⁹
    of fl(x) (u = 2⁻²⁴; the last term covers subnormal results), all in units of the scale. Where no input of
    a row needed rounding the same holds, since x' may. A frozen column is that of x, and rounds to the same.

    Args:
        given: (N, d) inputs as sent.
        rounded: (N, d) inputs as evaluated.
        threat: threat set of the radii.

    Returns:
        (N,) bounds on all of this but r(1 + u).
    """
    threat, away = as_threat(threat), given - rounded
    moved = vector_norm(threat.units(away), threat.norm, axis=1) if away.any() else 0.0
    if threat.scale is None:
        spread = bound_equivalence(Norm.INF, threat.norm, given.shape[1])
    else:
        spread = bound_scaling(1.0 / threat.scales[threat.changed], Norm.INF, threat.norm, 1)
    # Norms as computed are off by (d + 3) half units of float64, and by less than 2^-490 where squares
    # underflow: the factor pays for the first and for the roundings here, doubling the last term for the
    # second.
    tiny = 2.0 * spread * 2.0**-149
    size = vector_norm(threat.units(given), threat.norm, axis=1)
    return np.asarray((moved + 2.0**-24 * size) * (1.0 + 2.0**-20) + tiny)


def after_rounding_inputs(radius: Array, taken: Array) -> Array:
    """Return radii about float32 inputs less the rounding of doubles that callers send.

    Args:
        radius: (N,) certified about the rounded inputs.
        taken: (N,) :func:`bound_input_rounding` of them.
    """
    # The exact r' = (r - taken) / (1 + u) is more than (r - taken)(1 - 2^-24), so this is less than r'.
    return np.maximum((radius - taken) * (1.0 - 2.0**-22), 0.0)
