"""Weight constraints: projection after each optimiser step, exact finishing before export.

During training the optimiser steps freely and the weights are then projected onto their set, so a
forward pass costs no more than that of an unconstrained network. At the end :meth:`Constraint.finish`
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

# Relative slack kept below the radius: products of several bounds are rounded upwards, and must
# not end above the product of the radii.
SLACK = 2.0**-40


@dataclass(frozen=True)
class Constraint(ABC):
    """A set of matrices W, of shape (outputs m, inputs n).

    Attributes:
        radius: the bound on the operator norm of W that the set implies.
    """

    radius: float = 1.0

    @property
    @abstractmethod
    def norms(self) -> tuple[Norm, Norm]:
        """Source and target norm of the operator norm bounded by the radius."""

    @abstractmethod
    def initial(self, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
        """Return a random matrix of the set, float32 of shape (rows, columns)."""

    @abstractmethod
    def project(self, weight: Tensor) -> Tensor:
        """Return the weight projected onto the set, after one optimiser step; shape (m, n)."""

    @abstractmethod
    def finish(self, weight: Array) -> Array:
        """Return a nearby matrix of float32 numbers, as float64, that is in the set exactly."""


@dataclass(frozen=True, kw_only=True)
class RowNorm(Constraint):
    """‖row‖_norm <= radius for each row, so ‖W‖_{norm*→inf} <= radius (Anil, Lucas, Grosse 2019).

    Attributes:
        norm: norm of the rows, the dual of the norm of the layer's input.
    """

    norm: Norm

    @property
    def norms(self) -> tuple[Norm, Norm]:
        """The dual of the rows' norm, and linf."""
        return self.norm.dual, Norm.INF

    def initial(self, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
        """Return projected Gaussian rows, long enough to be sparse in l1: dense rows only average."""
        weight = torch.randn(rows, columns, generator=generator)
        return self.project(weight * self.radius)

    def project(self, weight: Tensor) -> Tensor:
        """Return the nearest point of the set, exactly."""
        match self.norm:
            case Norm.INF:
                return weight.clamp(-self.radius, self.radius)
            case Norm.TWO:
                size = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
                return torch.mul(weight, self.radius / size.clamp(min=self.radius))
            case Norm.ONE:
                return project_rows_l1(weight, self.radius)

    def finish(self, weight: Array) -> Array:
        """Return float32 rows, each scaled down until its rounding is within the radius."""
        rows = np.array(weight, dtype=np.float64)
        limit = self.radius * (1.0 - SLACK)
        while True:
            rounded = rows.astype(np.float32).astype(np.float64)
            size = bound_vector_norm(rounded, self.norm, axis=1)
            long = size > limit
            if not long.any():
                return rounded
            rows[long] *= _below(limit / size[long])[:, None]


@dataclass(frozen=True, kw_only=True)
class NormalisedRows(RowNorm):
    """‖row‖_norm = radius for each row: the bound of :class:`RowNorm`, met by division, not projection.

    No row can shrink, so all scores have the same Lipschitz constant (last-layer normalisation; Singla,
    Singla, Feizi 2022). A row of zeros has no direction and is kept.
    """

    def project(self, weight: Tensor) -> Tensor:
        """Return each row divided by its norm, times the radius."""
        order = {Norm.ONE: 1, Norm.TWO: 2, Norm.INF: torch.inf}[self.norm]
        size = torch.linalg.vector_norm(weight, ord=order, dim=1, keepdim=True)
        return torch.mul(weight, self.radius / size.clamp(min=torch.finfo(weight.dtype).tiny))


class _SpectralConstraint(Constraint):
    """A bound on the largest singular value, the operator norm l2→l2."""

    @property
    def norms(self) -> tuple[Norm, Norm]:
        """L2 and l2."""
        return Norm.TWO, Norm.TWO

    def finish(self, weight: Array) -> Array:
        """Return the nearest point in float64, by SVD, scaled down until its rounding is in the set."""
        left, values, right = np.linalg.svd(np.asarray(weight, dtype=np.float64), full_matrices=False)
        nearest = (left * self.finished_values(values)) @ right
        return scaled_to_fit(nearest, bound_spectral_norm, self.radius)

    @abstractmethod
    def finished_values(self, values: Array) -> Array:
        """Return the singular values of the nearest point of the set."""


@dataclass(frozen=True, kw_only=True)
class SpectralNorm(_SpectralConstraint):
    """‖W‖_2 <= radius: singular values above the radius are cut, smaller values are kept.

    The projection costs an eigendecomposition per step, tens of milliseconds for 512 units. Power
    iteration is cheaper but is off by several per cent when many singular values are nearly equal,
    and training makes them so. :class:`Stiefel` is cheaper still.
    """

    def initial(self, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
        """Return a random orthogonal matrix times the radius, as :class:`Stiefel` does."""
        return Stiefel(self.radius).initial(rows, columns, generator)

    def project(self, weight: Tensor) -> Tensor:
        """Return the nearest point of the set: singular values cut to the radius, from WᵀW or WWᵀ."""
        wide = weight.shape[0] <= weight.shape[1]
        squares, vectors = torch.linalg.eigh(weight @ weight.T if wide else weight.T @ weight)
        factors = self.radius / squares.clamp(min=self.radius**2).sqrt()
        cut = (vectors * factors) @ vectors.T
        return torch.mm(cut, weight) if wide else torch.mm(weight, cut)

    def finished_values(self, values: Array) -> Array:
        """Return the singular values, cut to the radius."""
        return np.minimum(values, self.radius)


@dataclass(frozen=True, kw_only=True)
class Stiefel(_SpectralConstraint):
    """W / radius with orthonormal rows, or columns if there are fewer columns: all singular values are 1."""

    def initial(self, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
        """Return a uniform sample: Q of a Gaussian matrix, with the signs of R's diagonal (Mezzadri 2007)."""
        shape = (max(rows, columns), min(rows, columns))
        q, r = torch.linalg.qr(torch.randn(*shape, generator=generator, dtype=torch.float64))
        orthonormal: Tensor = q * torch.sign(torch.diagonal(r))
        return self.project((orthonormal if rows >= columns else orthonormal.T).float() * self.radius)

    def project(self, weight: Tensor) -> Tensor:
        """Return W after one Newton–Schulz step, 1.5 W − 0.5 W Wᵀ W (Björck, Bowie 1971).

        The step sends each singular value σ to 1.5σ − 0.5σ³, which converges to 1 from (0, √3). If the
        optimiser's step may have left this interval, W is first scaled back into the interval.
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
        """Return singular values all equal to the radius: those of the polar factor."""
        return np.full_like(values, self.radius)


def project_rows_l1(weight: Tensor, radius: float) -> Tensor:
    """Return each row's nearest point with ‖row‖_1 <= radius (Duchi et al. 2008, figure 1).

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
    """Return the weight as float32 numbers in float64, scaled down until its bound is at most the radius."""
    limit = radius * (1.0 - SLACK)
    while True:
        rounded = np.asarray(weight.astype(np.float32).astype(np.float64))
        size = bound(rounded)
        if size <= limit:
            return rounded
        weight = weight * float(_below(limit / size))


def _below(factor: Array | float) -> Array:
    """Return a slightly smaller factor, by less than one unit in the last place of float32."""
    return np.asarray(factor * (1.0 - 2.0**-24))
