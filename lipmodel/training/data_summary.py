"""Summary of a training's data for people: shape, classes, scaling, units."""

from __future__ import annotations

import numpy as np

from lipmodel.data.dataset import Dataset
from lipmodel.training.recipes import Recipe
from lipmodel.training.scaling import find_scale

MAX_NAMED = 12  # classes or columns listed by name


def summarise(recipe: Recipe, training: Dataset, held_out: Dataset) -> dict[str, str]:
    """Return a sentence for each topic, in the order of display."""
    rows = len(training.labels) + len(held_out.labels)
    shape = " × ".join(map(str, training.input_shape))
    summary = {
        "data": f"{training.name}: {rows} inputs of {shape} numbers, from {training.inputs.min():g} to "
        f"{training.inputs.max():g}",
        "rows": f"{len(training.labels)} for training, "
        f"{len(held_out.labels)} ({len(held_out.labels) / rows:.0%}) held out",
        "classes": _classes(training),
        "scaling": _scaling(recipe, training),
        "units": f"radii and epsilons are in the units of the inputs: {training.units}",
    }
    if training.columns:
        summary["columns"] = _few(training.columns)
    if recipe.training.validation:
        summary["validation"] = f"{recipe.training.validation:.0%} of the training rows"
    return summary


def _classes(training: Dataset) -> str:
    counts = np.bincount(training.labels, minlength=len(training.classes))
    named = _few([f"{name} ({count})" for name, count in zip(training.classes, counts, strict=True)])
    return f"{len(counts)}; training rows: {named}"


def _scaling(recipe: Recipe, training: Dataset) -> str:
    scale = find_scale(training, recipe.scaling)
    if recipe.scaling == "none":
        return "none: inputs are centred, not scaled"
    if recipe.scaling == "common":
        return f"inside the network, each column is centred and divided by {scale[0]:g}"
    kept = int((scale == 1).sum())
    return (
        "inside the network, each column is centred and divided by about its standard deviation (powers of "
        f"two from {scale.min():g} to {scale.max():g}; {kept} of {len(scale)} by 1)"
    )


def _few(names: list[str] | tuple[str, ...]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f", … and {more} more" if more > 0 else "")
