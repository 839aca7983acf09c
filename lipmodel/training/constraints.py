"""The sets that weights are kept in, and how: project after each step, finish exactly before export.

During training the optimiser steps freely and the weights are then brought back into their set, so
a forward pass costs no more than that of a plain network. At the end :meth:`Constraint.finish`
works in float64 and returns numbers that float32 holds exactly and that satisfy the constraint in
exact arithmetic, by the verified bounds of ``lipmodel.norms``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipmodel.norms import Array, Norm, bound_spectral_norm, bound_vector_norm

# Left free below the radius, relative: products of several bounds are rounded upwards, and must
# not end above the product of the radii.
FREE = 2.0**-40


@dataclass(frozen=True)
class Constraint(ABC):
    """A set of matrices W (outputs m, inputs n).

    Attributes:
        radius: the bound on W's operator norm that the set implies.
    """

    radius: float = 1.0

    @property
    @abstractmethod
    def norms(self) -> tuple[Norm, Norm]:
        """Source and target of the operator norm that is at most the radius."""

    @abstractmethod
    def initial(self, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
        """A random matrix of the set, float32."""

    @abstractmethod
    def project(self, weight: Tensor) -> Tensor:
        """The weight brought back to the set after one step of the optimiser."""

    @abstractmethod
    def finish(self, weight: Array) -> Array:
        """A nearby matrix of float32 numbers, as float64, that is in the set exactly (not nearly)."""


@dataclass(frozen=True, kw_only=True)
class RowNorm(Constraint):
    """Each row has ‖row‖_norm <= radius, so ‖W‖_{norm*→inf} <= radius (Anil, Lucas, Grosse 2019).

    Attributes:
        norm: of the rows: the dual of the norm that the layer's input is measured in.
    """

    norm: Norm

    @property
    def norms(self) -> tuple[Norm, Norm]:
        """See :class:`Constraint`."""
        return self.norm.dual, Norm.INF

    def initial(self, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
        """Gaussian rows, long enough that their projection is sparse in l1: dense ones only average."""
        weight = torch.randn(rows, columns, generator=generator)
        return self.project(weight * self.radius)

    def project(self, weight: Tensor) -> Tensor:
        """The nearest point of the set, exactly."""
        match self.norm:
            case Norm.INF:
                return weight.clamp(-self.radius, self.radius)
            case Norm.TWO:
                size = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
                return torch.mul(weight, self.radius / size.clamp(min=self.radius))
            case Norm.ONE:
                return project_rows_l1(weight, self.radius)

    def finish(self, weight: Array) -> Array:
        """Scales down each row whose float32 rounding is too long."""
        rows = np.array(weight, dtype=np.float64)
        limit = self.radius * (1.0 - FREE)
        while True:
            rounded = rows.astype(np.float32).astype(np.float64)
            size = bound_vector_norm(rounded, self.norm, axis=1)
            long = size > limit
            if not long.any():
                return rounded
            rows[long] *= _below(limit / size[long])[:, None]


@dataclass(frozen=True, kw_only=True)
class NormalisedRows(RowNorm):
    """Each row has ‖row‖_norm = radius: the same bound, met by dividing rather than by projecting.

    No row can shrink, so no score is slower than another (last-layer normalisation; Singla, Singla,
    Feizi 2022). A row of zeros has no direction and stays.
    """

    def project(self, weight: Tensor) -> Tensor:
        """Each row scaled to the radius."""
        order = {Norm.ONE: 1, Norm.TWO: 2, Norm.INF: torch.inf}[self.norm]
        size = torch.linalg.vector_norm(weight, ord=order, dim=1, keepdim=True)
        return torch.mul(weight, self.radius / size.clamp(min=torch.finfo(weight.dtype).tiny))


class _SpectralConstraint(Constraint):
    """A bound on the largest singular value, the operator norm l2→l2."""

    @property
    def norms(self) -> tuple[Norm, Norm]:
        """See :class:`Constraint`."""
        return Norm.TWO, Norm.TWO

    def finish(self, weight: Array) -> Array:
        """The nearest point in float64, by SVD, scaled down until its rounding passes."""
        left, values, right = np.linalg.svd(np.asarray(weight, dtype=np.float64), full_matrices=False)
        nearest = (left * self.finished_values(values)) @ right
        return scaled_to_fit(nearest, bound_spectral_norm, self.radius)

    @abstractmethod
    def finished_values(self, values: Array) -> Array:
        """The singular values of the nearest point of the set."""


@dataclass(frozen=True, kw_only=True)
class SpectralNorm(_SpectralConstraint):
    """‖W‖_2 <= radius: no singular value above it, smaller ones as they are.

    The projection costs an eigendecomposition a step, tens of milliseconds for 512 units; power
    iteration is cheaper and misses several per cent where many singular values are nearly equal,
    which is where training takes them. :class:`Stiefel` is cheaper still.
    """

    def initial(self, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
        """As of :class:`Stiefel`."""
        return Stiefel(self.radius).initial(rows, columns, generator)

    def project(self, weight: Tensor) -> Tensor:
        """The nearest point of the set: singular values cut to the radius, by those of WᵀW or WWᵀ."""
        wide = weight.shape[0] <= weight.shape[1]
        squares, vectors = torch.linalg.eigh(weight @ weight.T if wide else weight.T @ weight)
        factors = self.radius / squares.clamp(min=self.radius**2).sqrt()
        cut = (vectors * factors) @ vectors.T
        return torch.mm(cut, weight) if wide else torch.mm(weight, cut)

    def finished_values(self, values: Array) -> Array:
        """Those above the radius are cut to it."""
        return np.minimum(values, self.radius)


@dataclass(frozen=True, kw_only=True)
class Stiefel(_SpectralConstraint):
    """W / radius has orthonormal rows, or columns where these are fewer: all singular values are 1."""

    def initial(self, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
        """Uniformly distributed: Q of a Gaussian matrix, with the signs of R's diagonal (Mezzadri 2007)."""
        shape = (max(rows, columns), min(rows, columns))
        q, r = torch.linalg.qr(torch.randn(*shape, generator=generator, dtype=torch.float64))
        orthonormal: Tensor = q * torch.sign(torch.diagonal(r))
        return self.project((orthonormal if rows >= columns else orthonormal.T).float() * self.radius)

    def project(self, weight: Tensor) -> Tensor:
        """One Newton–Schulz step towards the nearest point, W ← 1.5 W − 0.5 W Wᵀ W (Björck, Bowie 1971).

        The step sends each singular value σ to 1.5σ − 0.5σ³, which converges to 1 from (0, √3). A
        step of the optimiser that may have left this interval is scaled back into it first.
        """
        wide = weight.shape[0] <= weight.shape[1]
        gram = weight @ weight.T if wide else weight.T @ weight
        square = self.radius**2
        # ‖G‖_inf >= ‖G‖_2 = σ_max²: cheap, and close to it where W is nearly orthogonal.
        shrink = 2.0 * square / max(2.0 * square, float(gram.abs().sum(dim=1).max()))
        first, third = 1.5 * shrink**0.5, -0.5 / square * shrink**1.5
        factors = (gram, weight) if wide else (weight, gram)
        return torch.addmm(weight, *factors, beta=first, alpha=third)

    def finished_values(self, values: Array) -> Array:
        """All equal to the radius: the polar factor."""
        return np.full_like(values, self.radius)


def project_rows_l1(weight: Tensor, radius: float) -> Tensor:
    """Each row's nearest point with ‖row‖_1 <= radius (Duchi et al. 2008, figure 1), all rows at once.

    Outside the ball the projection is soft thresholding, sign(w) max(|w| − θ, 0); with the
    magnitudes u_1 >= u_2 >= … , θ = (Σ_{i<=ρ} u_i − radius) / ρ for the largest ρ at which u_ρ > θ.
    """
    magnitude = weight.abs()
    ordered = magnitude.sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - radius
    count = torch.arange(1, weight.shape[1] + 1, dtype=weight.dtype, device=weight.device)
    support = (ordered * count > excess).sum(dim=1, keepdim=True)
    threshold = (excess.gather(1, support - 1) / support).clamp(min=0.0)  # 0 for rows inside the ball
    return weight.sign() * (magnitude - threshold).clamp(min=0.0)


def scaled_to_fit(weight: Array, bound: Callable[[Array], float], radius: float) -> Array:
    """The weight, of float32 numbers as float64, scaled down until its bound is at most the radius."""
    limit = radius * (1.0 - FREE)
    while True:
        rounded = np.asarray(weight.astype(np.float32).astype(np.float64))
        size = bound(rounded)
        if size <= limit:
            return rounded
        weight = weight * float(_below(limit / size))


def _below(factor: Array | float) -> Array:
    """A factor a little smaller: less than one unit in the last place of float32."""
    return np.asarray(factor * (1.0 - 2.0**-24))
