"""Certified radii of scores that are linear in a clipped input: the larger of the rule's and of the box's.

clip(x') never leaves the box K, whatever x' is, so its evaluations err by E(ρ_K) at most, with ρ_K = sup over
K of ‖·‖_q, and nothing overflows if nothing does at ρ_K. The radius against a score j is that of the box for
the margin m_j - E°_ij(‖clip(x)‖_q) - E_ij(ρ_K), see ``box.py``. Where an end of the box is missing, ρ_K is
taken over the part within a reach R of x, and no radius is above R.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lipmodel.certify.head import Indices
from lipmodel.certify.linear_box import LinearBox
from lipmodel.certify.lipschitz import LipschitzBounds
from lipmodel.certify.radius import Radii, RadiusRule
from lipmodel.certify.rounding import RoundingBounds
from lipmodel.norms import Array, bound_vector_norm, down, up

UNBOUNDED = float(np.finfo(np.float64).max)
"""Radius where no input has another answer."""
NEAREST = 4
"""Number of nearest rivals of each input that are tried first: mostly they exclude all others."""
ENTRIES = 2**17
"""Maximum entries of differences of scores at a time, so that they stay in the cache."""
REACH = 16.0
"""R, as a multiple of the least radius without the box."""


class InBox(NamedTuple):
    """Inputs (N, d) behind the clip.

    Attributes:
        z: (N, d) clipped inputs.
        size: (N,) upper bounds on ‖z‖_q.
        reach: (N,) R; infinite for a box with all ends.
        largest: (N,) upper bounds on ‖z'‖_q for every z' in the box within R.
        fits: (N,) whether no evaluation overflows there.
    """

    z: Array
    size: Array
    reach: Array
    largest: Array
    fits: Array


class BoxedRule(RadiusRule):
    """The radius formula of a model with scores that are linear in a clipped input.

    Attributes:
        linear: the scores as functions of the clipped input.
    """

    @np.errstate(over="ignore")  # what overflows does not fit
    def __init__(
        self,
        linear: LinearBox,
        lipschitz: LipschitzBounds,
        evaluated: RoundingBounds,
        promised: RoundingBounds | None = None,
        *,
        input_size: int,
    ) -> None:
        super().__init__(linear.head.owners, lipschitz, evaluated, promised, input_size=input_size)
        self.linear = linear
        self._box_size = linear.box.bound_size(self.promised.norm)
        self._never_overflows = bool(self._fits(np.array(self._box_size)))

    def located(self, inputs: Array) -> Array:
        """Return the clipped inputs: an evaluation of x is one of clip(x)."""
        return self.linear.box.clip(inputs)

    def __call__(self, scores: Array, inputs: Array) -> Radii:
        """Return the certified radii of a batch, see :meth:`RadiusRule.__call__`."""
        return self._of_batch(scores, self.located(inputs))

    @np.errstate(all="ignore")  # what overflows or is no number proves nothing
    def in_box(self, inputs: Array, least: Array) -> InBox:
        """Return inputs (N, d) behind the clip, with reaches for their least radii (N,) without it."""
        z = self.located(inputs)
        size = bound_vector_norm(z, self.promised.norm, axis=1)
        if np.isfinite(self._box_size):
            reach, largest = np.full(len(z), np.inf), np.full(len(z), self._box_size)
        else:
            reach = REACH * least
            largest = up(size + up(self.kappa * reach))
        return InBox(z, size, reach, largest, self._fits(largest))

    def _fits(self, size: Array) -> Array:
        """Return whether evaluations of inputs of a size overflow nowhere; NaN compares false."""
        promised, evaluated = self.promised, self.evaluated
        return np.asarray(
            (promised.magnitude.at(size) < promised.limit)
            & (evaluated.magnitude.at(size) < evaluated.limit / 2.0)
        )

    def _overflow_radius(self, size: Array) -> Array:
        return np.full(size.shape, UNBOUNDED) if self._never_overflows else super()._overflow_radius(size)

    def _widened(self, pair_radius: Array, best: Indices, scores: Array, inputs: Array) -> Array:
        """Return pair radii (N, M), those of the box where they set the radius of an input.

        Only a rival whose radius without the box is below the least radius in the box matters.
        """
        least = pair_radius.min(axis=1)
        behind = self.in_box(inputs, least)
        open_pairs = np.isfinite(pair_radius) & (behind.fits & (least > self._least))[:, None]
        found, tried = pair_radius.copy(), np.zeros(pair_radius.shape, dtype=bool)
        count = min(NEAREST, pair_radius.shape[1])
        np.put_along_axis(tried, np.argpartition(pair_radius, count - 1, axis=1)[:, :count], True, axis=1)
        tried &= open_pairs
        self._try(found, tried, best, scores, behind)
        nearest = np.where(tried, found, np.inf).min(axis=1, keepdims=True)
        self._try(found, open_pairs & ~tried & (pair_radius < nearest), best, scores, behind)
        return found

    def _try(self, found: Array, which: Array, best: Indices, scores: Array, behind: InBox) -> None:
        """Replace the radii of some pairs by those in the box where these are larger."""
        rows, rivals = np.nonzero(which)
        step = max(1, ENTRIES // behind.z.shape[1])
        for start in range(0, len(rows), step):
            n, j = rows[start : start + step], rivals[start : start + step]
            margins = down(scores[n, best[n]] - scores[n, j])
            of_scores = self.evaluated.pair_error(best[n], j, behind.size[n])
            error = self.promised.pair_error(best[n], j, behind.largest[n])
            margins = down(down(margins - of_scores) - error)
            radii, _ = self.linear.radii(
                best[n, None], np.ones((len(n), 1)), j, behind.z[n], margins, behind.reach[n], self.threat
            )
            found[n, j] = np.fmax(found[n, j], radii)
