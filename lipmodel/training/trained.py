"""The result of a training, and its record."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

from lipmodel import __version__
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.radius import Radii
from lipmodel.data.dataset import Dataset
from lipmodel.evaluate import Evaluation
from lipmodel.report.plots import NORM_SYMBOL
from lipmodel.training.data_summary import summarise
from lipmodel.training.loop import Epoch
from lipmodel.training.plots import plot_training
from lipmodel.training.recipes import Recipe


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training.

    Attributes:
        recipe: the recipe.
        content: the ONNX file's bytes.
        predictor: the file, read as for certification.
        evaluation: evaluation of the file on the held-out part.
        history: learning curves.
        largest_difference: largest difference of a score, file against torch's network, on training inputs.
        seconds: duration of the training loop.
        train, held_out: the two parts of the data.
        trained_by: number of processes, and their kind of device.
    """

    recipe: Recipe
    content: bytes
    predictor: CertifiedPredictor
    evaluation: Evaluation
    history: list[Epoch]
    largest_difference: float
    seconds: float
    train: Dataset
    held_out: Dataset
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
                "understood": summarise(self.recipe, self.train, self.held_out),
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
        recipe = self.recipe
        title = f"{recipe.name}: {recipe.lipschitz:g}-Lipschitz in {NORM_SYMBOL[recipe.norm]}"
        return plot_training(title, self.predictor, self.evaluation, self.history, self.held_out)

    @cached_property
    def radii(self) -> Radii:
        """Predictions and certified radii on the held-out part."""
        return self.predictor.predict(self.held_out.inputs, self.recipe.norm).radii
