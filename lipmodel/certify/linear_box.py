"""Raw scores that are linear in a clipped input, as of linear classifiers and prototypes behind a Clip."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lipmodel.certify.box import Box, radius_in_box
from lipmodel.certify.head import Head, Indices, linear_head
from lipmodel.certify.linear_runs import LinearRun, all_in_range, follow
from lipmodel.network import ops
from lipmodel.norms import Array, down, gamma, inflate
from lipmodel.threat import Threat


@dataclass(frozen=True, eq=False)
class LinearBox:
    """Raw scores <rows_i, z> + constant_i of a clipped input z in a box.

    Attributes:
        box: the box.
        head: head with rows (M, d) in the coordinates of z.
        negated: whether the scores are those of ``head`` with the opposite sign.
    """

    box: Box
    head: Head
    negated: bool

    @cached_property
    @np.errstate(over="ignore")  # infinite bounds prove nothing
    def _moved(self) -> tuple[Array, Array]:
        """Return (M,) Σ_k |row_k| (high_k - low_k) over columns with both ends, and Σ_k |row_k| over the
        others.

        A change δ within the box moves a score by at most the first, and the second times the largest |δ_k|.
        """
        size = np.abs(self.head.rows) if self.head.bound_size is None else self.head.bound_size
        width = self.box.high - self.box.low
        closed, roundings = np.isfinite(width), size.shape[1] + 2
        opened = np.zeros(len(size)) if closed.all() else inflate(size[:, ~closed].sum(axis=1), roundings)
        return inflate(size[:, closed] @ width[closed], roundings), opened

    def gradients(self, rows: Array, threat: Threat) -> Array:
        """Return combinations of rows (…, d) as gradients of scores in the units of a threat set."""
        changed = (-rows if self.negated else rows)[..., threat.changed]
        return changed if threat.scale is None else changed * threat.scales[threat.changed]

    def radii(
        self,
        targets: Indices,
        weights: Array,
        rivals: Indices,
        z: Array,
        margins: Array,
        most: Array,
        threat: Threat,
    ) -> tuple[Array, Array]:
        """Return (P,) radii within which mixtures of scores stay above other scores, with their multipliers.

        Args:
            targets: (I,) or (P, I) indices i of the scores of each mixture.
            weights: (P, I) λ >= 0; rows add up to 1.
            rivals: (P,) indices j.
            z: (P, d) clipped inputs.
            margins: (P,) Σ λ_i score_i - score_j at z, less all errors of evaluation.
            most: (P,) radii beyond which nothing is asked; infinite for a bounded box.
            threat: threat set of the radii.
        """
        rows, own = self.head.rows, np.broadcast_to(targets, weights.shape)
        mixed = np.einsum("pi,pid->pd", weights, rows[own]) if weights.shape[1] > 1 else rows[own[:, 0]]
        difference = self.gradients(mixed - rows[rivals], threat)
        # Roundings of the rows, their mixture, difference and scale, and their cost to <v, δ> for any δ in
        # the box.
        roundings = self.head.roundings + weights.shape[1] + 4
        closed, opened = ((weights * moved[own]).sum(axis=1) + moved[rivals] for moved in self._moved)
        if opened.any():
            closed = closed + opened * ((1.0 if threat.scale is None else max(threat.scale)) * most)
        lost = inflate(gamma(roundings) * closed, weights.shape[1] + 6)
        below, above = self.box.room(z, threat)
        radii, multipliers = radius_in_box(difference, below, above, down(margins - lost), threat.norm)
        return np.minimum(radii, most), multipliers


def find_linear_box(box: Box) -> LinearBox | None:
    """Return raw scores as linear functions of the clipped input; None where they are no such functions."""
    head = linear_head(box.behind)
    name, negated = box.behind.input, False
    run: LinearRun | None = None
    for op in head.body.ops:
        if op.inputs != (name,):
            return None
        name, run = op.output, follow(run, op)
        negated ^= isinstance(op, ops.Negate)
        if run is None and not isinstance(op, ops.Negate | ops.Shift | ops.Reshape):
            return None
    turned = head if run is None else run.turn(head)
    # Within this range neither a scale nor a mixture loses anything to underflow.
    return LinearBox(box, turned, negated) if turned is not None and all_in_range(turned.rows) else None
