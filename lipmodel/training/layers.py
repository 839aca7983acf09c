"""Layers that know their constraint; ordinary modules for ``nn.Sequential``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipmodel.training.constraints import Constraint


class Shift(nn.Module):
    """y = x − mean: the normalisation inside the network; it moves nothing faster or slower."""

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, x: Tensor) -> Tensor:
        """(…, d) to (…, d)."""
        return x - self.mean


class ConstrainedDense(nn.Module):
    """y = W x + b with W in a set; the optimiser moves W freely, :func:`project_` brings it back.

    Args:
        inputs, outputs: sizes n, m of the layer; W is (m, n).
        constraint: the set.
        generator: source of the initial weights, and of biases uniform within ±1/√n.
    """

    def __init__(
        self, inputs: int, outputs: int, constraint: Constraint, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.constraint = constraint
        self.weight = nn.Parameter(constraint.initial(outputs, inputs, generator))
        spread = 1.0 / math.sqrt(inputs)
        self.bias = nn.Parameter((2.0 * torch.rand(outputs, generator=generator) - 1.0) * spread)

    def forward(self, x: Tensor) -> Tensor:
        """(…, n) to (…, m)."""
        return nn.functional.linear(x, self.weight, self.bias)


@torch.no_grad()
def project_(network: nn.Module) -> None:
    """Brings the weights of all constrained layers back into their sets, in place."""
    for module in network.modules():
        if isinstance(module, ConstrainedDense):
            module.weight.copy_(module.constraint.project(module.weight))
