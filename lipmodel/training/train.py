"""One training from beginning to end: data, network, loop, export, evaluation of the file, records, plots."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipmodel import __version__
from lipmodel.certify.claims import Claims
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data import Dataset, load_parts
from lipmodel.errors import RecipeError
from lipmodel.evaluate import Evaluation, evaluate
from lipmodel.training.export import export, largest_difference, to_graph
from lipmodel.training.files import to_json, write_whole
from lipmodel.training.loop import Epoch, Watch, deterministic, fit, unwatched
from lipmodel.training.network import build_network, place_prototypes_
from lipmodel.training.plots import NORM_SYMBOL, plot_training
from lipmodel.training.recipes import Recipe, load_recipe

COMPARED_ROWS = 10_000  # inputs on which the file is compared with torch, at most


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training.

    Attributes:
        recipe: what was trained.
        content: the ONNX file's bytes.
        predictor: the file as the certificate reads it.
        evaluation: of the file, on the held-out part.
        history: learning curves.
        largest_difference: of a score between the file and torch's network, on real inputs.
        seconds: of the training loop.
        train, held_out: the data.
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

    def record(self) -> dict[str, Any]:
        """The training record, as JSON types."""
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
                "train": {"samples": len(self.train.labels), "sha256": self.train.digest},
                "held_out": {"samples": len(self.held_out.labels), "sha256": self.held_out.digest},
            },
            "model": {
                "sha256": self.predictor.file.sha256,
                "bytes": len(self.content),
                "claimed_lipschitz": self.recipe.lipschitz,
                "bound_global": bounds.bound_global,
                "largest_difference_to_torch": self.largest_difference,
            },
            **self.evaluation.to_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "seconds": self.seconds,
        }

    def plot(self) -> bytes:
        """Learning curves, certified accuracy and, of 2-d inputs, decision regions, as a PNG file's bytes."""
        recipe = self.recipe
        title = f"{recipe.name}: {recipe.lipschitz:g}-Lipschitz in {NORM_SYMBOL[recipe.norm]}"
        return plot_training(title, self.predictor, recipe.norm, self.history, self.held_out)


def train(
    recipe_name: str,
    out_dir: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    data_dir: Path | None = None,
    watch: Watch = unwatched,
) -> Trained:
    """Trains a recipe and writes NAME.onnx, NAME.json (the record) and NAME.png, each whole or not at all.

    Args:
        recipe_name: one of ``recipe_names()``.
        out_dir: folder to write to; made if it is not there.
        overrides: any of norm, lipschitz, seed, epochs; see ``load_recipe``.
        data_dir: the folder of IDX files, for mnist.
        watch: told after each step.

    Raises:
        RecipeError: also where the folder cannot be written to.
        DataError, TrainingError, MissingExtraError: see each.
    """
    recipe = load_recipe(recipe_name, **(overrides or {}))
    parts = load_parts(recipe.data, data_dir)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)  # before the work, so that it is not lost
        trained = train_recipe(recipe, *parts, watch=watch)
        write_whole(out_dir / f"{recipe.name}.onnx", trained.content)
        write_whole(out_dir / f"{recipe.name}.json", to_json(trained.record()))
        write_whole(out_dir / f"{recipe.name}.png", trained.plot())
    except OSError as error:
        raise RecipeError(
            f"cannot write to {out_dir} ({error.strerror}); a writable folder is accepted"
        ) from error
    return trained


def train_recipe(
    recipe: Recipe, training: Dataset, held_out: Dataset, *, watch: Watch = unwatched
) -> Trained:
    """Trains on the data given. Same recipe, data and machine: the same bytes.

    Raises:
        TrainingError: the loss is no longer a number, or the file's bound exceeds the constant asked for.
        RecipeError: a binary loss for more than two classes.
    """
    if recipe.loss.binary and len(training.classes) != 2:
        raise RecipeError(f"the loss is for 2 classes and {training.name} has {len(training.classes)}")
    inputs, labels = _tensors(training)
    started = time.perf_counter()
    with deterministic(recipe.training.threads):
        generator = torch.Generator().manual_seed(recipe.seed)
        network = build_network(
            recipe.network,
            norm=recipe.norm,
            lipschitz=recipe.lipschitz,
            mean=inputs.mean(dim=0),
            outputs=1 if recipe.loss.binary else len(training.classes),
            generator=generator,
            input_shape=training.input_shape,
        )
        place_prototypes_(network, inputs, labels, generator)
        history = fit(
            network,
            recipe.loss,
            (inputs, labels),
            _tensors(held_out),
            recipe.training,
            generator=generator,
            watch=watch,
        )
        seconds = time.perf_counter() - started
        graph = to_graph(network)
        content, predictor = export(graph, _claims(recipe, training, None))
        # What is measured of the file goes into the file: the same graph, written again with its figures.
        evaluation = evaluate(predictor, held_out.inputs, held_out.labels, recipe.norm, recipe.epsilons)
        content, predictor = export(graph, _claims(recipe, training, evaluation))
        difference = largest_difference(network, predictor, inputs[:COMPARED_ROWS])
    return Trained(recipe, content, predictor, evaluation, history, difference, seconds, training, held_out)


def _claims(recipe: Recipe, training: Dataset, evaluation: Evaluation | None) -> Claims:
    """What the file says of itself; nothing in it depends on the time or the place."""
    record: dict[str, Any] = {
        "recipe": recipe.to_dict(),
        "data_sha256": training.digest,
        "input_shape": list(training.input_shape),
        "units": training.units,
    }
    if evaluation is not None:
        record["held_out"] = evaluation.to_dict()
    return Claims(
        norm=recipe.norm,
        lipschitz=recipe.lipschitz,
        classes=training.classes,
        input_box=(float(training.inputs.min()), float(training.inputs.max())),
        record=record,
    )


def _tensors(data: Dataset) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
