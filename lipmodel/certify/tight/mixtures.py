"""Mixtures of target scores, which may replace the score of the answered class against one competitor.

Where classes own several raw scores (prototypes), a competitor's score j wins only where it is above *all*
target scores (of the answered class), so above every mixture Σ λ_i F_i of them, λ >= 0, Σ λ = 1. Against j
any mixture may therefore take the place of the one score i of ``radius.py``, with

    m = Σ λ_i ŷ_i - ŷ_j,   L = ‖Σ λ_i w_i - w_j‖_{s*} L_s,   E = Σ λ_i E_ij,   B = Σ λ_i B_ij :

inside r = (m - E° - E) / (L + κB) the mean of the ŷ_i - ŷ_j with the weights λ is positive, hence one of
them is. In l2, where scores are linear in the input, the best λ gives the exact distance to the region
in which j is above all target scores (duality of the projection onto a polyhedron); so do Voráček and Hein
2022 certify nearest-prototype classifiers. The search for weights needs no proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipmodel.certify.head import Head, Indices
from lipmodel.certify.radius import RadiusRule
from lipmodel.certify.rounding import RoundingBounds
from lipmodel.norms import Array, bound_vector_norm, down, gamma, inflate, up

MIXED_SCORES, MIXED_RIVALS, CHUNK = 32, 128, 16
"""Maximum target scores in a mixture, and maximum competitors, in all and at a time."""
SWEEPS = 20
WEIGHT_UNIT = 2.0**-20
"""Weights are multiples of this, so that they add up to exactly 1."""


@dataclass(frozen=True, eq=False)
class ClassMargins:
    """Margins of the answered class over the J scores of other classes at one input.

    Attributes:
        competitors: (J,) indices j of scores of other classes.
        targets: (I,) indices of scores of the answered class, the largest score first.
        weights: (J, I) the mixture against each j; rows add up to 1. One weight of 1 is a pair.
        pair_radius: (J,) radius within which some target score stays above score j, rounded down.
        bound_margin: (J,) lower bound on m - E°, and so on the exact margin over j.
        bound_score_error: (J,) E°, of m as computed.
        bound_lipschitz, bound_error, bound_error_slope: (J,) L, E and B of the mixture less j.
    """

    competitors: Indices
    targets: Indices
    weights: Array
    pair_radius: Array
    bound_margin: Array
    bound_score_error: Array
    bound_lipschitz: Array
    bound_error: Array
    bound_error_slope: Array


class Mixer:
    """Margins between classes, with or without mixtures, for one model and threat set.

    Attributes:
        head: head of the network.
        rule: radius formula.
    """

    def __init__(self, head: Head, rule: RadiusRule) -> None:
        self.head, self.rule = head, rule

    def class_margins(self, scores: Array, x: Array, label: int, *, mix: bool) -> ClassMargins:
        """Return the margins of a class over all other classes; with ``mix``, by mixtures where these gain.

        The search starts with the nearest competitor and ends when the nearest of all has been tried.

        Args:
            scores: (M,) raw scores at x, all finite.
            x: (d,) the input.
            label: index of the class.
            mix: whether to search for mixtures, some milliseconds per input.
        """
        owners = self.head.owners
        targets = np.flatnonzero(owners == label)
        targets = targets[np.argsort(-scores[targets], kind="stable")][: MIXED_SCORES if mix else 1]
        competitors = np.flatnonzero((owners != label) & (owners >= 0))
        weights = np.zeros((len(competitors), len(targets)))
        weights[:, 0] = 1.0
        margins = self.margins_of(scores, x, targets, weights, competitors)
        if len(targets) > 1:
            order, least = np.argsort(margins.pair_radius, kind="stable"), np.inf
            for start in range(0, min(MIXED_RIVALS, len(order)), CHUNK):
                chunk = order[start : start + CHUNK]
                if least <= margins.pair_radius[chunk[0]]:
                    break
                self._improve(margins, chunk, scores, x)
                least = min(least, margins.pair_radius[chunk].min())
        return margins

    @staticmethod
    def error_of(
        bounds: RoundingBounds, targets: Indices, weights: Array, competitors: Indices, size: Array
    ) -> Array:
        """Return (J,) upper bounds on E(ρ) of each mixture less its competitor, for an input of size ρ."""
        first, pair = targets[weights.argmax(axis=1)], weights.max(axis=1) == 1.0
        alone = bounds.pair_error(first, competitors, size)
        if pair.all():
            return alone
        pairs = bounds.pair_error(targets[None, :], competitors[:, None], size)
        return np.where(pair, alone, inflate((weights * pairs).sum(axis=1), len(targets) + 2))

    def _improve(self, margins: ClassMargins, chunk: Indices, scores: Array, x: Array) -> None:
        """Replace the weights against some competitors where better weights are found."""
        targets, competitors = margins.targets, margins.competitors[chunk]
        best = self.rule.pair_radii(scores, x, targets[:, None], competitors).argmax(axis=0)
        for weights in (np.eye(len(targets))[best], self._weights(scores, targets, competitors)):
            found = self.margins_of(scores, x, targets, weights, competitors)
            better = found.pair_radius > margins.pair_radius[chunk]
            for name in vars(margins).keys() - {"competitors", "targets"}:  # all that depends on the weights
                getattr(margins, name)[chunk[better]] = getattr(found, name)[better]

    def margins_of(
        self, scores: Array, x: Array, targets: Indices, weights: Array, competitors: Indices
    ) -> ClassMargins:
        """Return the margins with given weights (J, I) >= 0, whose rows add up to 1."""
        rule, size = self.rule, bound_vector_norm(x, self.rule.promised.norm)
        pair = weights.max(axis=1) == 1.0
        first = targets[weights.argmax(axis=1)]
        lipschitz = rule.lipschitz.bound_per_score_pair[first, competitors]
        slope = np.asarray(rule.promised.pair_coefficients(first, competitors).slope)
        error = of_scores = self.error_of(rule.promised, targets, weights, competitors, size)
        if rule.evaluated is not rule.promised:
            of_scores = self.error_of(rule.evaluated, targets, weights, competitors, size)
        pair_margins = down(scores[first] - scores[competitors])
        pair_radius = rule.pair_radii(scores, x, first, competitors)
        if not pair.all():
            slopes = rule.promised.pair_coefficients(targets[None, :], competitors[:, None]).slope
            lipschitz = np.where(pair, lipschitz, self._bound_lipschitz(targets, weights, competitors))
            slope = np.where(pair, slope, inflate((weights * slopes).sum(axis=1), len(targets) + 2))
            rounding_slack = inflate(
                gamma(len(targets)) * (weights @ np.abs(scores[targets])), len(targets) + 2
            )
            pair_margins = np.where(
                pair,
                pair_margins,
                down(down(weights @ scores[targets] - scores[competitors]) - rounding_slack),
            )
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            bound_margins = down(pair_margins - of_scores)
            mixed = down(down(bound_margins - error) / up(lipschitz + up(rule.kappa * slope)))
        pair_radius = np.where(pair, pair_radius, mixed)
        return ClassMargins(
            competitors, targets, weights, pair_radius, bound_margins, of_scores, lipschitz, error, slope
        )

    def _bound_lipschitz(self, targets: Indices, weights: Array, competitors: Indices) -> Array:
        """Return (J,) upper bounds on the Lipschitz constants of Σ λ_i F_i - F_j: the best over norms."""
        feature_bounds = self.rule.lipschitz.feature_bounds
        return np.asarray(
            np.min([m.bound_mixtures(targets, weights, competitors) for m in feature_bounds], axis=0)
        )

    def _weights(self, scores: Array, targets: Indices, competitors: Indices) -> Array:
        """Return (J, I) weights that do well against each competitor; plain arithmetic.

        The multipliers μ >= 0 of the projection, in l2, of the features onto the polyhedron where score j
        is above all target scores: max over μ of Σ μ_i (ŷ_i - ŷ_j) - ½ ‖Σ μ_i (w_i - w_j)‖²,
        by coordinate ascent.
        """
        rows = self.head.rows[targets] - self.head.rows[competitors, None]
        pair_margins = scores[targets] - scores[competitors, None]
        gram = rows @ rows.transpose(0, 2, 1)
        diagonal = np.maximum(np.diagonal(gram, axis1=1, axis2=2), np.finfo(float).tiny)
        weights = np.zeros_like(pair_margins)
        for _ in range(SWEEPS):
            for i in range(len(targets)):
                rest = pair_margins[:, i] - (gram[:, i] * weights).sum(axis=1)
                weights[:, i] = np.maximum(weights[:, i] + rest / diagonal[:, i], 0.0)
        return _adding_up(weights)


def _adding_up(weights: Array) -> Array:
    """Return weights that add up to exactly 1: cut to multiples of 2^-20, the rest added to the largest."""
    total = weights.sum(axis=1, keepdims=True)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=(total > 0.0) & np.isfinite(total))
    cut = np.floor(shares / WEIGHT_UNIT) * WEIGHT_UNIT
    cut[np.arange(len(cut)), cut.argmax(axis=1)] += 1.0 - cut.sum(axis=1)
    return np.asarray(cut)
