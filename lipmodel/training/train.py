"""A whole training: data, network, loop, export, evaluation of the file, record, plots."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lipmodel.data.dataset import Dataset
from lipmodel.data.load import load_own, load_parts
from lipmodel.errors import RecipeError
from lipmodel.evaluate import Evaluation, evaluate
from lipmodel.files import to_json, write_whole
from lipmodel.network.metadata import Claims
from lipmodel.network.ops import Graph
from lipmodel.training.checkpoint import Checkpoint
from lipmodel.training.distributed import SINGLE_PROCESS, ProcessGroup
from lipmodel.training.export.onnx_export import export, largest_difference, to_graph
from lipmodel.training.loop import Control, Fit, Labelled, deterministic
from lipmodel.training.network import build_network, initialise_
from lipmodel.training.recipes import Recipe, load_recipe
from lipmodel.training.report import report
from lipmodel.training.scaling import find_scale, in_units_of_the_data, scaled
from lipmodel.training.trained import Plan, Trained

SUFFIXES = (".onnx", ".json", ".png", ".html", ".samples.npz")
"""The files that a training writes, or replaces."""
COMPARED_ROWS = 10_000  # maximum number of inputs on which the file is compared with torch


def plan(
    recipe_name: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    data_dir: Path | None = None,
    data: Path | None = None,
    name: str | None = None,
) -> Plan:
    """Return the plan of a training by a recipe, with its data or custom data in their place.

    Args:
        recipe_name: one of ``recipe_names()``, or a ``.toml`` file.
        overrides: any of norm, lipschitz, seed, epochs, settings; see ``load_recipe``.
        data_dir: the folder of the recipe's data set, if the data set needs one.
        data: a file or folder of custom data, see ``load_own``; its scaling is chosen by the data unless a
            setting names one.
        name: name of the files written; by default the name of the recipe, or of the custom data's file.

    Raises:
        RecipeError: the recipe, an override or the name is invalid.
        DataError: the data cannot be read.
        MissingExtraError: reading the data needs a package that is not installed.
    """
    overrides = dict(overrides or {})
    recipe = load_recipe(recipe_name, **overrides)
    if name is None and data is not None:
        name = data.resolve().name if data.is_dir() else data.stem
    if name is not None:
        if not name or name.startswith(".") or Path(name).name != name:
            raise RecipeError(f"'{name}' cannot name files; a name without slash or leading dot is accepted")
        recipe = replace(recipe, name=name)
    if data is None:
        return Plan(recipe, *load_parts(recipe.data, data_dir))
    if data_dir is not None:
        raise RecipeError("--data-dir is for the recipe's own data set; give --data-dir or --data, not both")
    training, held_out = load_own(data)
    chosen = "scaling" in (overrides.get("settings") or {})
    recipe = replace(recipe, data=training.name, scaling=recipe.scaling if chosen else training.scaling)
    return Plan(recipe, training, held_out)


def carry_out(
    planned: Plan,
    out_dir: Path,
    *,
    control: Control | None = None,
    resume: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
    samples: int = 0,
    force: bool = False,
) -> Trained:
    """Train and write NAME.onnx, .json (the record), .png and .html (the report); return the result.

    Each file is written atomically. During the training NAME.checkpoint holds its state.

    Args:
        planned: the plan of the training.
        out_dir: folder to write to, created if missing.
        control: callbacks of the training; its checkpoint is set here.
        resume: continue from NAME.checkpoint.
        group: the processes that train together. This process is the first; the others call :func:`follow`.
        samples: number of held-out rows to write to NAME.samples.npz, for the service to show.
        force: replace existing files of that name.

    Raises:
        RecipeError: see :func:`train_recipe`; also if the folder is not writable, holds files of that name,
            or holds an unfinished training and ``resume`` is False.
        TrainingError, TrainingInterruptedError: see ``Fit.run``.
    """
    recipe = planned.recipe
    checkpoint = _checkpoint(planned, out_dir, group, resume, force)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)  # before the training, so that no result is lost
        if not os.access(out_dir, os.W_OK):
            raise PermissionError(0, "no permission")
        control = replace(control or Control(), checkpoint=checkpoint, resume=resume)
        trained = train_recipe(recipe, planned.train, planned.held_out, control=control, group=group)
        write_whole(out_dir / f"{recipe.name}.onnx", trained.content)
        write_whole(out_dir / f"{recipe.name}.json", to_json(trained.record()))
        write_whole(out_dir / f"{recipe.name}.png", trained.plot())
        write_whole(out_dir / f"{recipe.name}.html", report(trained))
        kept = out_dir / f"{recipe.name}.samples.npz"
        if samples:
            write_whole(kept, planned.sample_file(samples))
        else:  # samples of a replaced model may be of other data
            kept.unlink(missing_ok=True)
        checkpoint.remove()
    except OSError as error:
        raise RecipeError(
            f"cannot write to {out_dir} ({error.strerror}); a writable folder is accepted"
        ) from error
    return trained


def follow(
    planned: Plan,
    out_dir: Path,
    group: ProcessGroup,
    *,
    control: Control | None = None,
    resume: bool = False,
    force: bool = False,
) -> None:
    """Train as a process of rank > 0, while rank 0 runs :func:`carry_out`; writes no files.

    Raises:
        RecipeError, TrainingError, TrainingInterruptedError: as in rank 0, which reports the error.
    """
    checkpoint = _checkpoint(planned, out_dir, group, resume, force)
    control = replace(control or Control(), checkpoint=checkpoint, resume=resume)
    fit_network(planned.recipe, planned.train, planned.held_out, control=control, group=group)


def train_recipe(
    recipe: Recipe,
    training: Dataset,
    held_out: Dataset,
    *,
    control: Control | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Trained:
    """Train on the given data; equal recipe, data, machine and group give an equal file.

    Raises:
        TrainingError: the loss is not finite, or the file's bound exceeds the recipe's constant.
        TrainingInterruptedError: ``control.stop`` requested it.
        RecipeError: a binary loss with more than two classes, or a batch larger than the data.
    """
    network, graph, fit = fit_network(recipe, training, held_out, control=control, group=group)
    with deterministic(recipe.training.threads):
        content, predictor = export(graph, claims(recipe, training, None))
        # The evaluation of the file is recorded in the file: the graph is written again with its results.
        evaluation = evaluate(predictor, held_out.inputs, held_out.labels, recipe.norm, recipe.epsilons)
        content, predictor = export(graph, claims(recipe, training, evaluation))
        compared = torch.from_numpy(training.inputs[:COMPARED_ROWS])
        difference = largest_difference(network, predictor, compared)
    return Trained(
        recipe=recipe,
        content=content,
        predictor=predictor,
        evaluation=evaluation,
        history=fit.history,
        largest_difference=difference,
        seconds=fit.seconds,
        train=training,
        held_out=held_out,
        trained_by=group.description,
    )


def fit_network(
    recipe: Recipe,
    training: Dataset,
    held_out: Dataset | None,
    *,
    control: Control | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[nn.Sequential, Graph, Fit]:
    """Train a network; return the network and its graph, both in the units of the data, and the fit.

    Args:
        recipe: the recipe.
        training: the training data.
        held_out: held-out data for the learning curves only; or None.
        control: callbacks of the training.
        group: the processes that train together. The network returned is on the CPU in any case.

    Raises:
        TrainingError, TrainingInterruptedError, RecipeError: see :func:`train_recipe`.
    """
    if recipe.loss.binary and len(training.classes) != 2:
        raise RecipeError(
            f"the loss is for 2 classes and {training.name} has {len(training.classes)}; "
            "set loss.name to multiclass-hinge or emma"
        )
    rows, validation = training, None
    if recipe.training.validation:
        rows, validation = training.split(recipe.training.validation)
    scale = find_scale(rows, recipe.scaling)

    def tensors(data: Dataset) -> Labelled:
        inputs = data.inputs if (scale == 1).all() else data.inputs / scale
        return torch.from_numpy(inputs), torch.from_numpy(data.labels)

    inputs, labels = tensors(rows)
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
        initialise_(network, inputs, labels, generator)
        fit = Fit(
            network,
            recipe.loss,
            (inputs, labels),
            None if held_out is None else tensors(held_out),
            None if validation is None else tensors(validation),
            recipe.training,
            epsilon=max(recipe.epsilons, default=0.0) / float(scale.min()),
            generator=generator,
            group=group,
        )
        network = fit.run(control or Control()).cpu()
        return scaled(network, scale), in_units_of_the_data(to_graph(network), scale), fit


def _checkpoint(planned: Plan, out_dir: Path, group: ProcessGroup, resume: bool, force: bool) -> Checkpoint:
    """Return the checkpoint of a training, with the values that must be the same to resume from it.

    Raises:
        RecipeError: the training would replace existing files.
    """
    identity = {
        "recipe": planned.recipe.to_dict(),
        "the training data's sha256": planned.train.digest,
        "the held-out data's sha256": planned.held_out.digest,
        "the version of torch": torch.__version__,
        "what trained it": group.description,
    }
    checkpoint = Checkpoint(out_dir / f"{planned.recipe.name}.checkpoint", identity)
    if checkpoint.path.exists() and not resume:
        raise RecipeError(
            f"{checkpoint.path} holds an unfinished training; continue it with --resume, or delete the file"
        )
    paths = (out_dir / f"{planned.recipe.name}{suffix}" for suffix in SUFFIXES)
    if not (force or resume) and (path := next((path for path in paths if path.exists()), None)):
        raise RecipeError(f"{path} exists; replace it with --force, or choose another --name")
    return checkpoint


def claims(recipe: Recipe, training: Dataset, evaluation: Evaluation | None) -> Claims:
    """Return the claims written into the file's metadata, independent of time and machine."""
    record: dict[str, Any] = {
        "recipe": recipe.to_dict(),
        "data_sha256": training.digest,
        "input_shape": list(training.input_shape),
        "units": training.units,
    }
    if training.columns:
        record["columns"] = list(training.columns)
    if evaluation is not None:
        record["held_out"] = evaluation.summary()
    return Claims(
        norm=recipe.norm,
        lipschitz=recipe.lipschitz,
        classes=training.classes,
        input_box=(float(training.inputs.min()), float(training.inputs.max())),
        record=record,
    )
