"""Small recipes, networks and data for the tests of training."""

from __future__ import annotations

from dataclasses import replace

import torch

from lipmodel.norms import Norm
from lipmodel.training.network import build_network
from lipmodel.training.recipes import NetworkRecipe, load_recipe
from tests.seeds import shifted


def small_recipe(name="two-moons", *, epochs=2, widths=(16, 16), activation="maxmin", **overrides):
    recipe = load_recipe(name, epochs=epochs, **{"seed": shifted(0)} | overrides)
    return replace(recipe, network=replace(recipe.network, widths=widths, activation=activation))


def small_network(
    norm=Norm.TWO,
    *,
    inputs=6,
    outputs=4,
    widths=(16, 24),
    constraint=None,
    lipschitz=1.0,
    seed=0,
    **activation,
):
    """Return an untrained network with perturbed weights, as after an optimiser step."""
    constraint = constraint or ("orthogonal" if norm is Norm.TWO else "rows")
    generator = torch.Generator().manual_seed(shifted(seed))
    return build_network(
        NetworkRecipe(widths=widths, constraint=constraint, **activation),
        norm=norm,
        lipschitz=lipschitz,
        mean=torch.rand(inputs, generator=generator),
        outputs=outputs,
        generator=generator,
    )
