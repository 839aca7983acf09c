"""Mixtures of own scores: what may stand for the answered class against one foreign score.

Where classes own several raw scores (prototypes), a foreign score j wins only where it is above *all*
of the answered class, so above every mixture Σ λ_i F_i of them, λ >= 0, Σ λ = 1. Against j any
mixture may therefore take the place of the one score i of ``radius.py``, with

    m = Σ λ_i ŷ_i - ŷ_j,   L = ‖Σ λ_i w_i - w_j‖_{s*} L_s,   E = Σ λ_i E_ij,   B = Σ λ_i B_ij :

inside r = (m - E° - E) / (L + κB) the mean of the ŷ_i - ŷ_j with the weights λ is positive, hence one of
them is. In l2, where scores are linear in the input, the best λ gives the exact distance to the region
in which j is above all own scores (duality of the projection onto a polyhedron); so do Voráček and Hein
2022 certify nearest-prototype classifiers. How the weights are found needs no proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipmodel.certify.head import Head, Indices
from lipmodel.certify.radius import RadiusRule
from lipmodel.certify.rounding import RoundingBounds
from lipmodel.norms import Array, bound_vector_norm, down, gamma, inflate, up

MIXED_SCORES, MIXED_RIVALS, CHUNK = 32, 128, 16
"""At most so many own scores are mixed, against so many rivals, so many at a time."""
SWEEPS = 20
CHOSEN = (
    "weights",
    "reach",
    "bound_margin",
    "bound_score_error",
    "bound_lipschitz",
    "bound_error",
    "bound_error_slope",
)
"""Of a standing, all that other weights change."""
WEIGHT_UNIT = 2.0**-20
"""Weights are multiples of this, so that they add up to exactly 1."""


@dataclass(frozen=True, eq=False)
class Standing:
    """How the answered class stands against the J scores of other classes at one input.

    Attributes:
        foreign: (J,) these scores j.
        own: (I,) scores of the answered class, the largest first.
        weights: (J, I) the mixture against each j; rows add up to 1. One weight of 1 is a pair.
        reach: (J,) how far a change must go before score j may be above all own ones, rounded down.
        bound_margin: (J,) never above m - E°, and so never above the exact margin over j.
        bound_score_error: (J,) E°, of m as computed.
        bound_lipschitz, bound_error, bound_error_slope: (J,) L, E and B of the mixture less j.
    """

    foreign: Indices
    own: Indices
    weights: Array
    reach: Array
    bound_margin: Array
    bound_score_error: Array
    bound_lipschitz: Array
    bound_error: Array
    bound_error_slope: Array


class Mixer:
    """Standings for one model and norm.

    Attributes:
        head: where the scores come from.
        rule: the formula.
    """

    def __init__(self, head: Head, rule: RadiusRule) -> None:
        self.head, self.rule = head, rule

    def stand(self, scores: Array, x: Array, label: int, *, mix: bool) -> Standing:
        """The largest score of a class against each foreign one; with ``mix``, mixtures that reach further.

        Mixtures are sought nearest rival first, until the nearest of all is one that has been looked at.

        Args:
            scores: (M,) raw scores at x, all finite.
            x: (d,) the input.
            label: the class.
            mix: whether to seek mixtures, some milliseconds an input.
        """
        owners = self.head.owners
        own = np.flatnonzero(owners == label)
        own = own[np.argsort(-scores[own], kind="stable")][: MIXED_SCORES if mix else 1]
        foreign = np.flatnonzero((owners != label) & (owners >= 0))
        weights = np.zeros((len(foreign), len(own)))
        weights[:, 0] = 1.0
        standing = self.standing(scores, x, own, weights, foreign)
        if len(own) > 1:
            order, least = np.argsort(standing.reach, kind="stable"), np.inf
            for start in range(0, min(MIXED_RIVALS, len(order)), CHUNK):
                chunk = order[start : start + CHUNK]
                if least <= standing.reach[chunk[0]]:
                    break
                self._improve(standing, chunk, scores, x)
                least = min(least, standing.reach[chunk].min())
        return standing

    def error(self, own: Indices, weights: Array, foreign: Indices, size: Array) -> Array:
        """(J,) never below E(ρ) of each mixture less its foreign score, for an input of size ρ."""
        return self._error_of(self.rule.promised, own, weights, foreign, size)

    @staticmethod
    def _error_of(
        bounds: RoundingBounds, own: Indices, weights: Array, foreign: Indices, size: Array
    ) -> Array:
        first, pair = own[weights.argmax(axis=1)], weights.max(axis=1) == 1.0
        alone = bounds.pair_error(first, foreign, size)
        if pair.all():
            return alone
        pairs = bounds.pair_error(own[None, :], foreign[:, None], size)
        return np.where(pair, alone, inflate((weights * pairs).sum(axis=1), len(own) + 2))

    def _improve(self, standing: Standing, chunk: Indices, scores: Array, x: Array) -> None:
        """Puts better weights, if there are, in place of those against some of the foreign scores."""
        own, foreign = standing.own, standing.foreign[chunk]
        best = self.rule.reach_of_pairs(scores, x, own[:, None], foreign).argmax(axis=0)
        for weights in (np.eye(len(own))[best], self._weights(scores, own, foreign)):
            found = self.standing(scores, x, own, weights, foreign)
            better = found.reach > standing.reach[chunk]
            for name in CHOSEN:
                getattr(standing, name)[chunk[better]] = getattr(found, name)[better]

    def standing(self, scores: Array, x: Array, own: Indices, weights: Array, foreign: Indices) -> Standing:
        """The bounds that given weights (J, I) >= 0, whose rows add up to 1, have."""
        rule, size = self.rule, bound_vector_norm(x, self.rule.promised.norm)
        pair = weights.max(axis=1) == 1.0
        first = own[weights.argmax(axis=1)]
        speeds = rule.lipschitz.bound_per_score_pair[first, foreign]
        slope = np.asarray(rule.promised.pair_line(first, foreign).slope)
        error = of_scores = self._error_of(rule.promised, own, weights, foreign, size)
        if rule.evaluated is not rule.promised:
            of_scores = self._error_of(rule.evaluated, own, weights, foreign, size)
        leads, reach = down(scores[first] - scores[foreign]), rule.reach_of_pairs(scores, x, first, foreign)
        if not pair.all():
            slopes = rule.promised.pair_line(own[None, :], foreign[:, None]).slope
            speeds = np.where(pair, speeds, self._bound_lipschitz(own, weights, foreign))
            slope = np.where(pair, slope, inflate((weights * slopes).sum(axis=1), len(own) + 2))
            doubt = inflate(gamma(len(own)) * (weights @ np.abs(scores[own])), len(own) + 2)
            leads = np.where(pair, leads, down(down(weights @ scores[own] - scores[foreign]) - doubt))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            margins = down(leads - of_scores)
            mixed = down(down(margins - error) / up(speeds + up(rule.kappa * slope)))
        reach = np.where(pair, reach, mixed)
        return Standing(foreign, own, weights, reach, margins, of_scores, speeds, error, slope)

    def _bound_lipschitz(self, own: Indices, weights: Array, foreign: Indices) -> Array:
        """(J,) never below the Lipschitz constant of Σ λ_i F_i - F_j, by the best measure of the features."""
        measures = self.rule.lipschitz.measures
        return np.asarray(np.min([m.bound_mixtures(own, weights, foreign) for m in measures], axis=0))

    def _weights(self, scores: Array, own: Indices, foreign: Indices) -> Array:
        """(J, I) weights that do well against each foreign score; plain arithmetic.

        The multipliers μ >= 0 of the projection, in l2, of the features onto the polyhedron where score j is
        above all own ones: max over μ of Σ μ_i (ŷ_i - ŷ_j) - ½ ‖Σ μ_i (w_i - w_j)‖², by coordinate ascent.
        """
        rows = self.head.rows[own] - self.head.rows[foreign, None]
        leads = scores[own] - scores[foreign, None]
        gram = rows @ rows.transpose(0, 2, 1)
        diagonal = np.maximum(np.diagonal(gram, axis1=1, axis2=2), np.finfo(float).tiny)
        weights = np.zeros_like(leads)
        for _ in range(SWEEPS):
            for i in range(len(own)):
                rest = leads[:, i] - (gram[:, i] * weights).sum(axis=1)
                weights[:, i] = np.maximum(weights[:, i] + rest / diagonal[:, i], 0.0)
        return _adding_up(weights)


def _adding_up(weights: Array) -> Array:
    """Weights that add up to exactly 1: cut to multiples of 2^-20, and what was cut given to the largest."""
    total = weights.sum(axis=1, keepdims=True)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=(total > 0.0) & np.isfinite(total))
    cut = np.floor(shares / WEIGHT_UNIT) * WEIGHT_UNIT
    cut[np.arange(len(cut)), cut.argmax(axis=1)] += 1.0 - cut.sum(axis=1)
    return np.asarray(cut)
