"""Layers that know their constraint, and what is joined to them; ordinary modules for ``nn.Sequential``.

Nothing here changes in a forward pass, in training or in eval. Weights return to their sets when
:func:`project_` is called: after steps of an optimiser, if :func:`keep_constraints` was.
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
    """A module whose weights have a set to be brought back to."""

    @abstractmethod
    def project_(self) -> None:
        """Brings the weights back into their set, in place; called without gradients."""


@torch.no_grad()
def project_(network: nn.Module) -> None:
    """Brings the weights of all constrained modules back into their sets, in place."""
    for module in network.modules():
        if isinstance(module, ConstrainedModule):
            module.project_()


def keep_constraints(
    optimiser: torch.optim.Optimizer, network: nn.Module, *, every: int = 1
) -> RemovableHandle:
    """Lets an optimiser bring the weights back into their sets at the end of its steps.

    For training loops of your own: ``keep_constraints(torch.optim.Adam(net.parameters()), net)``.
    The handle's ``remove()`` ends it. A copy of the optimiser does not have it: call this again.

    Args:
        optimiser: of the network's parameters.
        network: whose weights are kept.
        every: of so many steps only the last brings them back, which costs less; call :func:`project_`
            before measuring in between. Exporting finishes the weights in any case.
    """
    steps = itertools.count(1)

    def after_a_step(*_: Any) -> None:
        if next(steps) % every == 0:
            project_(network)

    return optimiser.register_step_post_hook(after_a_step)


class Shift(nn.Module):
    """y = x − mean: the normalisation inside the network; it moves nothing faster or slower."""

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, x: Tensor) -> Tensor:
        """(N, *mean.shape), and the same."""
        return x - self.mean


class PrincipalComponents(nn.Module):
    """y = P x, the rows of P the directions in which data vary most: fixed, orthonormal, 1-Lipschitz in l2.

    Args:
        inputs, outputs: sizes d, n <= d; P is (n, d), the first n coordinates until :meth:`fit_`.

    Raises:
        RecipeError: more components than inputs.
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
        """Takes the components of data (N, d), in float64; each with its largest entry positive."""
        centred = (x - x.mean(dim=0)).double()
        vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1).T[: len(self.directions)]
        largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
        self.directions.copy_(vectors * largest.sign())

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) to (N, n)."""
        return nn.functional.linear(x, self.directions)


class PositionalBias(nn.Module):
    """y = x + p, p learned: tells places apart that a shift with wrap-around treats alike.

    As in LipNeXt (Hu, Hu, Fredrikson 2026), where p has one channel for all.

    Args:
        shape: of p, which broadcasts to a sample: (1, H, W), (C, H, W) or (n,).
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(*shape))

    def forward(self, x: Tensor) -> Tensor:
        """(N, *sample), and the same."""
        return x + self.bias


class ConstrainedDense(ConstrainedModule):
    """y = W x + b with W in a set; the optimiser moves W freely, :func:`project_` brings it back.

    Args:
        inputs, outputs: sizes n, m of the layer; W is (m, n).
        constraint: the set.
        generator: source of the initial weights, and of biases uniform within ±1/√n; torch's own
            where none is given.
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
        """(…, n) to (…, m)."""
        return nn.functional.linear(x, self.weight, self.bias)

    def project_(self) -> None:
        """See :class:`ConstrainedModule`."""
        self.weight.copy_(self.constraint.project(self.weight))


class Residual(nn.Module):
    """y = (1 − α) x + α f(x), α in (0, 1) learned: 1-Lipschitz where f is.

    A plain residual x + f(x) may be 2-Lipschitz; a convex combination is not (Trockman, Kolter 2021).

    Args:
        inner: f, whose output has its input's shape.
    """

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)
        self.logit = nn.Parameter(torch.zeros(()))  # α = 1/2 at first

    @property
    def share(self) -> Tensor:
        """α, a scalar."""
        return torch.sigmoid(self.logit)

    def forward(self, x: Tensor) -> Tensor:
        """(N, *sample), and the same."""
        return torch.lerp(x, self.inner(x), self.share)


class Monotone(nn.Module):
    """g(x) = f(x) + L Σ_{i in features} x_i: one score that never falls where a chosen feature rises.

    |∂f/∂x_i| <= L for f that is L-Lipschitz in any l_p, so ∂g/∂x_i >= 0 (Kitouni, Nolte, Williams
    2023). g itself may move as fast as (1 + m^(1 − 1/p)) L, for m features.

    Args:
        network: f, from (N, d) to (N, 1).
        features: indices below d, distinct.
        inputs: d.
        lipschitz: L, the bound that f is trained under.

    Raises:
        RecipeError: features that are not distinct indices, or an L that is not a positive number.
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
            raise RecipeError(
                f"a Lipschitz constant of {lipschitz} makes no sense; a positive number is accepted"
            )
        self.network = network
        slope = np.float32(lipschitz)
        if float(slope) < lipschitz:  # rounding L down would leave a slope of f unanswered
            slope = np.nextafter(slope, np.float32(np.inf))
        direction = torch.zeros(1, inputs)
        direction[0, sorted(chosen)] = float(slope)
        self.register_buffer("direction", direction)

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) to (N, 1)."""
        return torch.add(nn.functional.linear(x, self.direction), self.network(x))
