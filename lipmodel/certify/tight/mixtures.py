"""Mixtures of target scores, which may replace the score of the answered class against one competitor.

Where classes own several raw scores (prototypes), a competitor's score j wins only where it is above *all*
target scores (of the answered class), so above every mixture Σ λ_i F_i of them, λ >= 0, Σ λ = 1. Against j
any mixture may therefore take the place of the one score i of ``radius.py``, with

    m = Σ λ_i ŷ_i - ŷ_j,   L = ‖Σ λ_i w_i - w_j‖_{s*} L_s,   E = Σ λ_i E_ij,   B = Σ λ_i B_ij :

inside r = (m - E° - E) / (L + κB) the mean of the ŷ_i - ŷ_j with the weights λ is positive, hence one of
them is. In l2, where scores are linear in the input, the best λ gives the exact distance to the region
in which j is above all target scores (duality of the projection onto a polyhedron); so do Voráček and Hein
2022 certify nearest-prototype classifiers. The search for weights needs no proof.

Where scores are linear in a clipped input, the mixture's radius is the larger of this one and that of the box
(``boxed_radius.py``), for weights found within the box too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipmodel.certify.boxed_radius import BoxedRule, InBox
from lipmodel.certify.head import Head, Indices
from lipmodel.certify.radius import RadiusRule
from lipmodel.certify.rounding import RoundingBounds
from lipmodel.norms import Array, Norm, bound_vector_norm, down, gamma, inflate, up

MIXED_SCORES, MIXED_RIVALS, CHUNK = 32, 128, 16
"""Maximum target scores in a mixture, and maximum competitors, in all and at a time."""
SWEEPS = 20
BOXED_SCORES, NEWTON_STEPS, HALVINGS = 8, 6, 4
"""Maximum target scores in a mixture within a box, and effort of the search for its weights."""
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
        box_radius: (J,) radius that the box proves, not above ``pair_radius``; 0 where none was looked for.
        multiplier: (J,) the μ of that radius, see ``box.py``.
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
    box_radius: Array
    multiplier: Array


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
        if len(targets) > 1 or isinstance(self.rule, BoxedRule):
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
        behind = None
        if isinstance(self.rule, BoxedRule):
            behind = self.rule.in_box(x[None], margins.pair_radius.min()[None])
        ways = [np.eye(len(targets))[best]]
        if len(targets) > 1:
            multipliers = self._weights(scores, targets, competitors)
            ways.append(_adding_up(multipliers))
            if behind is not None and self.rule.threat.norm is Norm.TWO:
                ways.append(
                    _adding_up(self._weights_in_box(behind, scores, targets, competitors, multipliers))
                )
        for weights in ways:
            found = self.margins_of(scores, x, targets, weights, competitors, behind)
            better = found.pair_radius > margins.pair_radius[chunk]
            for name in vars(margins).keys() - {"competitors", "targets"}:  # all that depends on the weights
                getattr(margins, name)[chunk[better]] = getattr(found, name)[better]

    def margins_of(
        self,
        scores: Array,
        x: Array,
        targets: Indices,
        weights: Array,
        competitors: Indices,
        behind: InBox | None = None,
    ) -> ClassMargins:
        """Return the margins with given weights (J, I) >= 0, whose rows add up to 1.

        Args:
            scores: (M,) raw scores at x.
            x: (d,) the input.
            targets: (I,) indices of scores of the answered class.
            weights: (J, I) the mixture against each competitor.
            competitors: (J,) indices of scores of other classes.
            behind: the input behind the clip, for radii that the box proves; None for radii without it.
        """
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
        box_radius, multiplier = np.zeros((2, len(competitors)))
        if behind is not None:
            box_radius, multiplier = self._in_box(behind, targets, weights, competitors, pair_margins)
        return ClassMargins(
            competitors,
            targets,
            weights,
            np.fmax(pair_radius, box_radius),
            bound_margins,
            of_scores,
            lipschitz,
            error,
            slope,
            box_radius,
            multiplier,
        )

    def _in_box(
        self, behind: InBox, targets: Indices, weights: Array, competitors: Indices, margins: Array
    ) -> tuple[Array, Array]:
        """Return (J,) radii that the box proves for one input, from margins as computed; and their μ."""
        rule = self.rule
        assert isinstance(rule, BoxedRule)
        of_scores = self.error_of(rule.evaluated, targets, weights, competitors, behind.size)
        error = self.error_of(rule.promised, targets, weights, competitors, behind.largest)
        radii, multipliers = rule.linear.radii(
            targets,
            weights,
            competitors,
            behind.z,
            down(down(margins - of_scores) - error),
            behind.reach,
            rule.threat,
        )
        return np.where(behind.fits, radii, 0.0), multipliers

    def _bound_lipschitz(self, targets: Indices, weights: Array, competitors: Indices) -> Array:
        """Return (J,) upper bounds on the Lipschitz constants of Σ λ_i F_i - F_j: the best over norms."""
        feature_bounds = self.rule.lipschitz.feature_bounds
        return np.asarray(
            np.min([m.bound_mixtures(targets, weights, competitors) for m in feature_bounds], axis=0)
        )

    def _weights(self, scores: Array, targets: Indices, competitors: Indices) -> Array:
        """Return (J, I) multipliers, in whose shares a mixture does well against each competitor.

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
        return weights

    @np.errstate(all="ignore")  # what is no number is cut to no weight
    def _weights_in_box(
        self, behind: InBox, scores: Array, targets: Indices, competitors: Indices, multipliers: Array
    ) -> Array:
        """Return (J, I) multipliers as :meth:`_weights`, of the projection within the box in l2.

        The dual is max over μ >= 0 of g(μ) = Σ μ_i m_i + min over the box of ½ ‖u‖² + <Σ μ_i a_i, u>, with
        a_i the gradient of score i less score j. Its steps are Newton's for the columns that are not at an
        end of the box (semismooth), each solved by coordinate ascent, and halved where g would fall.
        """
        rule = self.rule
        assert isinstance(rule, BoxedRule)
        few = np.argsort(-multipliers.max(axis=0), kind="stable")[:BOXED_SCORES]
        linear, threat = rule.linear, rule.threat
        rows = linear.head.rows
        a = linear.gradients(rows[targets[few]] - rows[competitors, None], threat)
        m = scores[targets[few]] - scores[competitors, None]
        below, above = linear.box.room(behind.z, threat)

        def at(mu: Array) -> tuple[Array, Array, Array]:
            free = -np.einsum("ji,jin->jn", mu, a)
            u = np.clip(free, -below, above)
            return (mu * m).sum(axis=1) + (0.5 * u * u - u * free).sum(axis=1), u, u == free

        mu = multipliers[:, few]
        value, u, inside = at(mu)
        for _ in range(NEWTON_STEPS):
            gradient = m + np.einsum("jin,jn->ji", a, u)
            kept = a * inside[:, None]
            hessian = kept @ kept.transpose(0, 2, 1)
            diagonal = np.diagonal(hessian, axis1=1, axis2=2)
            diagonal = np.maximum(diagonal, 1e-6 * diagonal.max(axis=1, keepdims=True) + np.finfo(float).tiny)
            wanted = mu.copy()
            for _ in range(SWEEPS):
                for i in range(len(few)):
                    rest = gradient[:, i] - (hessian[:, i] * (wanted - mu)).sum(axis=1)
                    wanted[:, i] = np.maximum(wanted[:, i] + rest / diagonal[:, i], 0.0)
            step = wanted - mu
            for _ in range(HALVINGS):
                then, u_then, inside_then = at(mu + step)
                worse = ~(then >= value)
                if not worse.any():
                    break
                step[worse] *= 0.5
            worse = ~(then >= value)[:, None]
            mu, u = np.where(worse, mu, mu + step), np.where(worse, u, u_then)
            inside, value = np.where(worse, inside, inside_then), np.where(worse[:, 0], value, then)
        result = np.zeros_like(multipliers)
        result[:, few] = mu
        return result


def _adding_up(weights: Array) -> Array:
    """Return weights that add up to exactly 1: cut to multiples of 2^-20, the rest added to the largest."""
    total = weights.sum(axis=1, keepdims=True)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=(total > 0.0) & np.isfinite(total))
    cut = np.floor(shares / WEIGHT_UNIT) * WEIGHT_UNIT
    cut[np.arange(len(cut)), cut.argmax(axis=1)] += 1.0 - cut.sum(axis=1)
    return np.asarray(cut)
