"""Networks of recipes: a clip where asked for, a shift, a body of layers and activations, and a head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipmodel.errors import RecipeError
from lipmodel.norms import Norm
from lipmodel.training.activations import AbsoluteValue, GroupSort, Householder, NActivation
from lipmodel.training.constraints import Constraint, NormalisedRows, RowNorm, Stiefel
from lipmodel.training.convolutions import PointwiseConv, SpatialShift
from lipmodel.training.heads import LinearHead, PrototypeHead
from lipmodel.training.layers import Clip, ConstrainedDense, PositionalBias, PrincipalComponents, Shift
from lipmodel.training.recipes import NetworkRecipe

Head = LinearHead | PrototypeHead

INITIAL_ROWS = 10_000  # rows per forward pass before training
CANDIDATES = 8  # target prototypes that are mixed in training


def build_network(
    recipe: NetworkRecipe,
    *,
    norm: Norm,
    lipschitz: float,
    mean: Tensor,
    outputs: int,
    generator: torch.Generator,
    input_shape: Sequence[int] | None = None,
) -> nn.Sequential:
    """Return a network with scores that are ``lipschitz``-Lipschitz in the input.

    The hidden layers are 1-Lipschitz, l_norm→linf and linf→linf for constraint "rows", l2→l2 for
    "orthogonal"; the rows of the head, with dual norm at most ``lipschitz``, carry the constant.

    Args:
        recipe: body, widths, activation, constraint, head.
        norm: norm of the input.
        lipschitz: Lipschitz constant of each score.
        mean: (d,), subtracted from every input first.
        outputs: number of scores; 1 for a binary classifier.
        generator: source of the initial weights.
        input_shape: shape of a sample, (H, W) or (C, H, W); for convolutional bodies only.

    Raises:
        RecipeError: the body or the head does not suit the data.
    """
    layers: list[nn.Module] = [Clip(*recipe.clip)] if recipe.clip else []
    layers.append(Shift(mean))
    size = len(mean)
    if recipe.components:
        layers.append(PrincipalComponents(size, recipe.components))
        size = recipe.components
    if recipe.body == "convolutional":
        features = _convolutional(layers, recipe, input_shape, size, generator)
    else:
        features = size
        for index, units in enumerate(recipe.widths):
            rows = RowNorm(norm=norm.dual if index == 0 else Norm.ONE)
            constraint: Constraint = Stiefel() if recipe.constraint == "orthogonal" else rows
            layers.append(ConstrainedDense(features, units, constraint, generator=generator))
            layers.append(_activation(recipe, units))
            features = units
    # Without hidden layers the norm of the features is the norm of the input.
    measured = norm if not recipe.widths else Norm.TWO if recipe.constraint == "orthogonal" else Norm.INF
    if recipe.prototypes is not None:
        if outputs == 1:
            raise RecipeError("network.head 'prototypes' takes a loss for several scores, not a binary one")
        prototypes = PrototypeHead(
            features,
            outputs,
            recipe.prototypes,
            lipschitz=lipschitz,
            norm=measured.dual,
            candidates=min(CANDIDATES, recipe.prototypes),
            dropout=recipe.dropout,
            generator=generator,
        )
        return nn.Sequential(*layers, prototypes)
    kind = NormalisedRows if recipe.head == "normalised" else RowNorm
    head = LinearHead(features, outputs, kind(lipschitz, norm=measured.dual), generator=generator)
    return nn.Sequential(*layers, head)


def compare(network: nn.Sequential, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores (N, K) and bounds (N, K) of a batch, for losses; see ``heads``."""
    head = network[-1]
    assert isinstance(head, Head)
    return head.compare(network[:-1](inputs), labels)


@torch.no_grad()
def initialise_(network: nn.Sequential, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> None:
    """Initialise principal components and prototypes from the training data, in place.

    Raises:
        RecipeError: a class has fewer samples than prototypes.
    """
    if not any(isinstance(module, PrincipalComponents | PrototypeHead) for module in network):
        return
    for module in network:
        if isinstance(module, PrincipalComponents):
            module.fit_(inputs)
        if isinstance(module, PrototypeHead):
            module.place_(inputs, labels, generator)
        else:
            inputs = torch.cat([module(rows) for rows in torch.split(inputs, INITIAL_ROWS)])


def _convolutional(
    layers: list[nn.Module],
    recipe: NetworkRecipe,
    input_shape: Sequence[int] | None,
    inputs: int,
    generator: torch.Generator,
) -> int:
    """Append blocks of LipNeXt, σ(M S(R(x + p)) + b) with a spatial shift S (Hu, Hu, Fredrikson 2026).

    Space-to-depth precedes each block as long as both sides of the image are even. Returns the number of
    features.
    """
    if input_shape is None or len(input_shape) not in (2, 3) or math.prod(input_shape) != inputs:
        raise RecipeError(
            f"network.body 'convolutional' with samples of shape {input_shape}; images [height, width] or "
            "[channels, height, width] are accepted"
        )
    channels, height, width = (1, *input_shape) if len(input_shape) == 2 else input_shape
    layers.append(nn.Unflatten(1, (channels, height, width)))
    for units in recipe.widths:
        if height % 2 == 0 and width % 2 == 0:
            layers.append(nn.PixelUnshuffle(2))
            channels, height, width = 4 * channels, height // 2, width // 2
        layers += [
            PositionalBias((1, height, width)),
            PointwiseConv(channels, units, Stiefel(), generator=generator),
            SpatialShift(),
            PointwiseConv(units, units, Stiefel(), generator=generator),
            _activation(recipe, units),
        ]
        channels = units
    layers.append(nn.Flatten())
    return channels * height * width


def _activation(recipe: NetworkRecipe, units: int) -> nn.Module:
    match recipe.activation:
        case "relu":
            return nn.ReLU()
        case "absolute":
            return AbsoluteValue()
        case "householder":
            return Householder(units)
        case "n-activation":
            return NActivation(units)
        case "maxmin":
            activation = GroupSort(group_size=2)
        case "fullsort":
            activation = GroupSort(number_of_groups=1)
        case _:
            activation = GroupSort(group_size=recipe.group_size, number_of_groups=recipe.number_of_groups)
    activation.group_size(units)  # refuses widths that cannot be split into groups, before training starts
    return activation
