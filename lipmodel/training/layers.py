"""Layers with constrained weights, and others to combine with them, as modules for ``nn.Sequential``.

A forward pass changes no weight, in training or in eval mode. Weights are projected onto their sets by
:func:`project_`; :func:`keep_constraints` makes an optimiser do so after its steps.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lipmodel.errors import RecipeError
from lipmodel.training.constraints import Constraint


class ConstrainedModule(nn.Module):
    """A module with weights constrained to a set."""

    @abstractmethod
    def project_(self) -> None:
        """Project the weights onto their set, in place; called without gradients."""


@torch.no_grad()
def project_(network: nn.Module) -> None:
    """Project the weights of all constrained modules onto their sets, in place."""
    for module in network.modules():
        if isinstance(module, ConstrainedModule):
            module.project_()


def keep_constraints(
    optimiser: torch.optim.Optimizer, network: nn.Module, *, every: int = 1
) -> RemovableHandle:
    """Make an optimiser project the network's weights after its steps; return the hook's handle.

    For custom training loops: ``keep_constraints(torch.optim.Adam(net.parameters()), net)``. The handle's
    ``remove()`` ends the projection. A copy of the optimiser does not have the hook.

    Args:
        optimiser: the optimiser of the network's parameters.
        network: the network to project.
        every: number of steps from one projection to the next; more steps cost less. Call :func:`project_`
            before measuring in between. Exporting finishes the weights in any case.
    """
    steps = itertools.count(1)

    def after_a_step(*_: Any) -> None:
        if next(steps) % every == 0:
            project_(network)

    return optimiser.register_step_post_hook(after_a_step)


class Clip(nn.Module):
    """y = min(max(x, low), high): a projection, 1-Lipschitz in every norm.

    In front of a network it keeps inputs in a box, and certified radii do not pay for values outside of it.

    Args:
        low, high: least and greatest value, low < high.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Return the clipped tensor, of the same shape."""
        return x.clamp(self.low, self.high)


class Shift(nn.Module):
    """y = x − mean: the centring of inputs inside the network, with Lipschitz constant 1."""

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, x: Tensor) -> Tensor:
        """Return x − mean; shape (N, *mean.shape)."""
        return x - self.mean


class PrincipalComponents(nn.Module):
    """y = P x, with the principal directions of data as the rows of P: fixed, orthonormal, 1-Lipschitz in l2.

    Args:
        inputs, outputs: sizes d, n <= d; P is (n, d), the first n coordinates until :meth:`fit_`.

    Raises:
        RecipeError: there are more components than inputs.
    """

    directions: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        if not 1 <= outputs <= inputs:
            raise RecipeError(
                f"{outputs} principal components of {inputs} inputs; 1 to {inputs} are accepted"
            )
        self.register_buffer("directions", torch.eye(outputs, inputs))

    @torch.no_grad()
    def fit_(self, x: Tensor) -> None:
        """Compute the components of data (N, d) in float64, each with its largest entry positive."""
        centred = (x - x.mean(dim=0)).double()
        vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1).T[: len(self.directions)]
        largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
        self.directions.copy_(vectors * largest.sign())

    def forward(self, x: Tensor) -> Tensor:
        """Return P x of inputs (N, d); shape (N, n)."""
        return nn.functional.linear(x, self.directions)


class PositionalBias(nn.Module):
    """y = x + p, p learned: distinguishes positions, which a shift with wrap-around treats alike.

    As in LipNeXt (Hu, Hu, Fredrikson 2026), where p has one channel for all.

    Args:
        shape: shape of p, which broadcasts to a sample: (1, H, W), (C, H, W) or (n,).
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(*shape))

    def forward(self, x: Tensor) -> Tensor:
        """Return x + p; shape (N, *sample)."""
        return x + self.bias


class ConstrainedDense(ConstrainedModule):
    """y = W x + b with W in a set, restored by :func:`project_` after the optimiser's free steps.

    Args:
        inputs, outputs: sizes n, m of the layer; W is (m, n).
        constraint: the set.
        generator: source of the initial weights, and of biases uniform within ±1/√n; torch's default
            generator if None.
    """

    def __init__(
        self, inputs: int, outputs: int, constraint: Constraint, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.constraint = constraint
        self.weight = nn.Parameter(constraint.initial(outputs, inputs, generator))
        spread = 1.0 / math.sqrt(inputs)
        self.bias = nn.Parameter((2.0 * torch.rand(outputs, generator=generator) - 1.0) * spread)

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + b of inputs (…, n); shape (…, m)."""
        return nn.functional.linear(x, self.weight, self.bias)

    def project_(self) -> None:
        """Project W onto its set, in place."""
        self.weight.copy_(self.constraint.project(self.weight))


class Residual(nn.Module):
    """y = (1 − α) x + α f(x), α in (0, 1) learned: 1-Lipschitz if f is.

    A plain residual x + f(x) may be 2-Lipschitz; a convex combination is not (Trockman, Kolter 2021).

    Args:
        inner: the modules of f, which preserves the shape of its input.
    """

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)
        self.logit = nn.Parameter(torch.zeros(()))  # initially α = 1/2

    @property
    def share(self) -> Tensor:
        """α, a scalar."""
        return torch.sigmoid(self.logit)

    def forward(self, x: Tensor) -> Tensor:
        """Return (1 − α) x + α f(x); shape (N, *sample)."""
        return torch.lerp(x, self.inner(x), self.share)


class Monotone(nn.Module):
    """g(x) = f(x) + L Σ_{i in features} x_i: one score, non-decreasing in each chosen feature.

    |∂f/∂x_i| <= L if f is L-Lipschitz in any l_p, so ∂g/∂x_i >= 0 (Kitouni, Nolte, Williams 2023). The
    Lipschitz constant of g may be (1 + m^(1 − 1/p)) L, for m features.

    Args:
        network: f, from (N, d) to (N, 1).
        features: distinct indices below d.
        inputs: d.
        lipschitz: L, the Lipschitz constant of f.

    Raises:
        RecipeError: the features are not distinct indices, or L is not a positive number.
    """

    direction: Tensor

    def __init__(self, network: nn.Module, features: Sequence[int], *, inputs: int, lipschitz: float) -> None:
        super().__init__()
        chosen = set(features)
        if not chosen or len(chosen) != len(features) or not chosen <= set(range(inputs)):
            raise RecipeError(
                f"monotone features {list(features)}; distinct indices from 0 to {inputs - 1} are accepted"
            )
        if not 0.0 < lipschitz < math.inf:
            raise RecipeError(f"the Lipschitz constant is {lipschitz}; a positive, finite number is accepted")
        self.network = network
        slope = np.float32(lipschitz)
        if float(slope) < lipschitz:  # L rounded down could be less than a slope of f
            slope = np.nextafter(slope, np.float32(np.inf))
        direction = torch.zeros(1, inputs)
        direction[0, sorted(chosen)] = float(slope)
        self.register_buffer("direction", direction)

    def forward(self, x: Tensor) -> Tensor:
        """Return g of inputs (N, d); shape (N, 1)."""
        return torch.add(nn.functional.linear(x, self.direction), self.network(x))
