"""Networks from a recipe: a shift, then dense layers and activations, then a dense head."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lipmodel.norms import Norm
from lipmodel.training.activations import GroupSort, full_sort, max_min
from lipmodel.training.constraints import Constraint, RowNorm, Stiefel
from lipmodel.training.layers import ConstrainedDense, Shift
from lipmodel.training.recipes import NetworkRecipe


def build_network(
    recipe: NetworkRecipe,
    *,
    norm: Norm,
    lipschitz: float,
    mean: Tensor,
    outputs: int,
    generator: torch.Generator,
) -> nn.Sequential:
    """A network none of whose scores moves faster than ``lipschitz`` times the change of the input.

    The hidden layers are 1-Lipschitz, l_norm→linf and linf→linf for constraint "rows", l2→l2 for
    "orthogonal"; the rows of the head, whose dual norm is at most ``lipschitz``, carry the constant.

    Args:
        recipe: widths, activation, constraint.
        norm: of the input.
        lipschitz: the bound on each score.
        mean: (d,) what is taken from every input first.
        outputs: scores; 1 for a binary classifier.
        generator: source of the initial weights.
    """
    widths = [len(mean), *recipe.widths]
    layers: list[nn.Module] = [Shift(mean)]
    for index, (inputs, units) in enumerate(pairwise(widths)):
        constraint: Constraint = (
            Stiefel()
            if recipe.constraint == "orthogonal"
            else RowNorm(norm=norm.dual if index == 0 else Norm.ONE)
        )
        layers.append(ConstrainedDense(inputs, units, constraint, generator=generator))
        layers.append(_activation(recipe, units))
    head = RowNorm(lipschitz, norm=Norm.TWO if recipe.constraint == "orthogonal" else Norm.ONE)
    layers.append(ConstrainedDense(widths[-1], outputs, head, generator=generator))
    return nn.Sequential(*layers)


def pair_bounds(network: nn.Sequential) -> Tensor:
    """(K, K): how fast f_i − f_j may move, ‖w_i − w_j‖ in the norm that constrains the head's rows.

    Differentiable in the weights; for losses, not for certificates (float32, nothing is rounded up).
    """
    head = network[-1]
    assert isinstance(head, ConstrainedDense)
    assert isinstance(head.constraint, RowNorm)
    rows = head.weight
    if head.constraint.norm is Norm.ONE:
        return (rows[:, None] - rows).abs().sum(dim=-1)
    # Through the Gram matrix: (K, K, n) would be large. The floor keeps the root's derivative finite.
    gram = rows @ rows.T
    squares = gram.diagonal()[:, None] + gram.diagonal() - 2.0 * gram
    return squares.clamp(min=1e-12).sqrt() * (1.0 - torch.eye(len(rows)))


def _activation(recipe: NetworkRecipe, units: int) -> nn.Module:
    if recipe.activation == "relu":
        return nn.ReLU()
    if recipe.activation == "maxmin":
        activation = max_min()
    elif recipe.activation == "fullsort":
        activation = full_sort()
    else:
        activation = GroupSort(group_size=recipe.group_size, number_of_groups=recipe.number_of_groups)
    activation.group_size(units)  # refuses widths that do not come out even, before training starts
    return activation
