"""A training's recipe and data, and its result with its record."""

from __future__ import annotations

import io
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np

from lipmodel import __version__
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.dataset import Dataset
from lipmodel.evaluate import Evaluation
from lipmodel.report import plots
from lipmodel.training.loop import Epoch
from lipmodel.training.plots import draw_learning_curves, draw_radius_field
from lipmodel.training.recipes import Recipe
from lipmodel.training.scaling import find_scale

MAX_NAMED = 12  # classes or columns listed by name
MAX_SAMPLE_NUMBERS = 100_000  # in a sample file: less than half a megabyte


@dataclass(frozen=True, eq=False)
class Plan:
    """A training ready to start: its recipe and the two parts of its data, read and checked."""

    recipe: Recipe
    train: Dataset
    held_out: Dataset

    @property
    def summary(self) -> dict[str, str]:
        """The summary of the data for people: a sentence for each topic, in the order of display."""
        recipe, training = self.recipe, self.train
        held_out = len(self.held_out.labels)
        rows = len(training.labels) + held_out
        shape = " × ".join(map(str, training.input_shape))
        summary = {
            "data": f"{training.name}: {rows} inputs of {shape} numbers, from {training.inputs.min():g} to "
            f"{training.inputs.max():g}",
            "rows": f"{len(training.labels)} for training, {held_out} ({held_out / rows:.0%}) held out",
            "classes": _classes(training),
            "scaling": _scaling(recipe, training),
            "units": f"radii and epsilons are in the units of the inputs: {training.units}",
        }
        if training.columns:
            summary["columns"] = _few(training.columns)
        if recipe.training.validation:
            summary["validation"] = f"{recipe.training.validation:.0%} of the training rows"
        return summary

    def sample_file(self, count: int) -> bytes:
        """Return a ``.npz`` file of ``count`` random held-out rows, fewer if rows are large.

        Arrays are ``inputs`` (N, *input_shape) and ``labels`` (N,), the format of ``lipmodel evaluate
        --data``. Equal data give equal files.
        """
        data = self.held_out
        most = max(1, MAX_SAMPLE_NUMBERS // data.inputs.shape[1])
        chosen = np.random.default_rng(0).permutation(len(data.labels))[: min(count, most)]
        with io.BytesIO() as file:
            inputs = data.inputs[chosen].reshape(-1, *data.input_shape)
            np.savez_compressed(file, inputs=inputs, labels=data.labels[chosen])
            return file.getvalue()


@dataclass(frozen=True, eq=False)
class Trained(Plan):
    """The result of a training.

    Attributes:
        content: the ONNX file's bytes.
        predictor: the file, read as for certification.
        evaluation: evaluation of the file on the held-out part.
        history: learning curves.
        largest_difference: largest difference of a score, file against torch's network, on training inputs.
        seconds: duration of the training loop.
        trained_by: number of processes, and their kind of device.
    """

    content: bytes
    predictor: CertifiedPredictor
    evaluation: Evaluation
    history: list[Epoch]
    largest_difference: float
    seconds: float
    trained_by: str

    def record(self) -> dict[str, Any]:
        """Return the training record, as JSON types."""
        bounds = self.predictor.bounds(self.recipe.norm)
        return {
            "recipe": self.recipe.to_dict(),
            "seed": self.recipe.seed,
            "versions": {"lipcert": __version__, "python": platform.python_version()}
            | {name: metadata.version(name) for name in ("torch", "numpy", "onnx", "onnxruntime")},
            "data": {
                "name": self.train.name,
                "units": self.train.units,
                "input_shape": list(self.train.input_shape),
                "columns": list(self.train.columns),
                "train": {"samples": len(self.train.labels), "sha256": self.train.digest},
                "held_out": {"samples": len(self.held_out.labels), "sha256": self.held_out.digest},
                "understood": self.summary,
            },
            "model": {
                "sha256": self.predictor.file.sha256,
                "bytes": len(self.content),
                "claimed_lipschitz": self.recipe.lipschitz,
                "bound_global": bounds.bound_global,
                "largest_difference_to_torch": self.largest_difference,
            },
            **self.evaluation.summary(),
            "history": [asdict(epoch) for epoch in self.history],
            "seconds": self.seconds,
            "trained_by": self.trained_by,
        }

    def plot(self) -> bytes:
        """Return a PNG of learning curves, certified accuracy and, for 2-d inputs, decision regions."""
        recipe, data = self.recipe, self.held_out
        flat = data.inputs.shape[1] == 2
        title = f"{recipe.name}: {recipe.lipschitz:g}-Lipschitz in {plots.NORM_SYMBOL[recipe.norm]}"
        figure, axes = plots.new_figure(3 if flat else 2, title)
        draw_learning_curves(axes[0], self.history)
        plots.draw_accuracies(axes[1], self.evaluation, data.units)
        if flat:
            draw_radius_field(axes[2], self.predictor, recipe.norm, data)
            axes[2].set_title("Decision regions, shaded by certified radius")
        return plots.to_png(figure)


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


def _few(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f", … and {more} more" if more > 0 else "")
