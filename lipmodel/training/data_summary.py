"""What a training understood of its data, in words: shape, classes, scaling, units."""

from __future__ import annotations

import numpy as np

from lipmodel.data.dataset import Dataset
from lipmodel.training.recipes import Recipe
from lipmodel.training.scaling import find_scale

MOST_NAMED = 12  # classes or columns named one by one


def account(recipe: Recipe, training: Dataset, held_out: Dataset) -> dict[str, str]:
    """Topic to sentence, in the order in which they are read."""
    rows = len(training.labels) + len(held_out.labels)
    shape = " × ".join(map(str, training.input_shape))
    told = {
        "data": f"{training.name}: {rows} inputs of {shape} numbers, from {training.inputs.min():g} to "
        f"{training.inputs.max():g}",
        "rows": f"{len(training.labels)} to train on, "
        f"{len(held_out.labels)} ({len(held_out.labels) / rows:.0%}) held out",
        "classes": _classes(training),
        "scaling": _scaling(recipe, training),
        "units": f"radii and epsilons are in the units of the inputs: {training.units}",
    }
    if training.columns:
        told["columns"] = _few(training.columns)
    if recipe.training.validation:
        told["validation"] = f"{recipe.training.validation:.0%} of the training rows are kept to choose by"
    return told


def _classes(training: Dataset) -> str:
    counts = np.bincount(training.labels, minlength=len(training.classes))
    named = _few([f"{name} ({count})" for name, count in zip(training.classes, counts, strict=True)])
    return f"{len(counts)}, with their rows to train on: {named}"


def _scaling(recipe: Recipe, training: Dataset) -> str:
    scale = find_scale(training, recipe.scaling)
    if recipe.scaling == "none":
        return "none: inputs are used as they are, less their mean"
    if recipe.scaling == "common":
        return f"inside the network, every number is divided by {scale[0]:g}, after its mean is taken off"
    kept = int((scale == 1).sum())
    return (
        "inside the network, each column less its mean is divided by a power of two near its standard "
        f"deviation ({scale.min():g} to {scale.max():g}; {kept} of {len(scale)} by 1)"
    )


def _few(names: list[str] | tuple[str, ...]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f", … and {more} more" if more > 0 else "")
