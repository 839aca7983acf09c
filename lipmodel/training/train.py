"""One training from beginning to end: data, network, loop, export, evaluation of the file, records, plots."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from lipmodel.training.data_summary import account
from lipmodel.training.distributed import ALONE, Team
from lipmodel.training.export.onnx_export import export, largest_difference, to_graph
from lipmodel.training.loop import Control, Fit, Labelled, deterministic
from lipmodel.training.network import begin_, build_network
from lipmodel.training.recipes import Recipe, load_recipe
from lipmodel.training.report import report
from lipmodel.training.samples import sample_file
from lipmodel.training.scaling import find_scale, in_units_of_the_data, scaled
from lipmodel.training.trained import Trained

ENDS = (".onnx", ".json", ".png", ".html", ".samples.npz")
"""Of the files that a training writes, or replaces."""
COMPARED_ROWS = 10_000  # inputs on which the file is compared with torch, at most


@dataclass(frozen=True, eq=False)
class Plan:
    """A training that may begin: its recipe and its data, both read and checked.

    Attributes:
        recipe: what to train.
        train, held_out: the data.
    """

    recipe: Recipe
    train: Dataset
    held_out: Dataset

    @property
    def account(self) -> dict[str, str]:
        """What was understood of the data, topic by topic."""
        return account(self.recipe, self.train, self.held_out)


def plan(
    recipe_name: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    data_dir: Path | None = None,
    data: Path | None = None,
    name: str | None = None,
) -> Plan:
    """Reads a recipe and its data, or data of your own in their place.

    Args:
        recipe_name: one of ``recipe_names()``, or a ``.toml`` file.
        overrides: any of norm, lipschitz, seed, epochs, settings; see ``load_recipe``.
        data_dir: the folder of the recipe's data set, if it needs one.
        data: a file or a folder of your own, see ``load_own``; scaled as suits it unless a setting says how.
        name: of the files written; by default the recipe's, or that of your own data without its ending.

    Raises:
        RecipeError, DataError, MissingExtraError: see each.
    """
    overrides = dict(overrides or {})
    recipe = load_recipe(recipe_name, **overrides)
    if name is None and data is not None:
        name = data.resolve().name if data.is_dir() else data.stem
    if name is not None:
        if not name or name.startswith(".") or Path(name).name != name:
            raise RecipeError(f"'{name}' cannot name files; a word without slashes is accepted")
        recipe = replace(recipe, name=name)
    if data is None:
        return Plan(recipe, *load_parts(recipe.data, data_dir))
    if data_dir is not None:
        raise RecipeError("--data-dir is of the recipe's own data; give it or --data, not both")
    training, held_out = load_own(data)
    said = "scaling" in (overrides.get("settings") or {})
    recipe = replace(recipe, data=training.name, scaling=recipe.scaling if said else training.scaling)
    return Plan(recipe, training, held_out)


def carry_out(
    planned: Plan,
    out_dir: Path,
    *,
    control: Control | None = None,
    resume: bool = False,
    team: Team = ALONE,
    samples: int = 0,
    force: bool = False,
) -> Trained:
    """Trains; writes NAME.onnx, .json (the record), .png and .html (the report), each whole or not at all.

    Until these are written NAME.checkpoint holds the training so far.

    Args:
        planned: what to train on what.
        out_dir: folder to write to; made if it is not there.
        control: what happens around the training; its checkpoint is set here.
        resume: continue from NAME.checkpoint.
        team: the processes that train together; this one is the first of them, the others :func:`follow`.
        samples: how many held-out rows to write to NAME.samples.npz as well, for the service to show.
        force: replace files of that name that an earlier training, or anything else, wrote.

    Raises:
        RecipeError: also where the folder cannot be written to, or holds files of that name, or an
            unfinished training that is not to be resumed.
        TrainingError, TrainingInterruptedError: see ``Fit.run``.
    """
    recipe = planned.recipe
    checkpoint = _checkpoint(planned, out_dir, team, resume, force)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)  # before the work, so that it is not lost
        if not os.access(out_dir, os.W_OK):
            raise PermissionError(0, "no permission")
        control = replace(control or Control(), checkpoint=checkpoint, resume=resume)
        trained = train_recipe(recipe, planned.train, planned.held_out, control=control, team=team)
        write_whole(out_dir / f"{recipe.name}.onnx", trained.content)
        write_whole(out_dir / f"{recipe.name}.json", to_json(trained.record()))
        write_whole(out_dir / f"{recipe.name}.png", trained.plot())
        write_whole(out_dir / f"{recipe.name}.html", report(trained))
        kept = out_dir / f"{recipe.name}.samples.npz"
        if samples:
            write_whole(kept, sample_file(planned.held_out, samples))
        else:  # those of the model that was replaced are of other data, perhaps
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
    team: Team,
    *,
    control: Control | None = None,
    resume: bool = False,
    force: bool = False,
) -> None:
    """What every process but the first does while that one does :func:`carry_out`: trains, writes nothing.

    Raises:
        RecipeError, TrainingError, TrainingInterruptedError: as the first process, which tells of it.
    """
    checkpoint = _checkpoint(planned, out_dir, team, resume, force)
    control = replace(control or Control(), checkpoint=checkpoint, resume=resume)
    fit_network(planned.recipe, planned.train, planned.held_out, control=control, team=team)


def train(
    recipe_name: str,
    out_dir: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    data_dir: Path | None = None,
    control: Control | None = None,
    resume: bool = False,
    force: bool = False,
) -> Trained:
    """:func:`plan`, then :func:`carry_out`."""
    planned = plan(recipe_name, overrides=overrides, data_dir=data_dir)
    return carry_out(planned, out_dir, control=control, resume=resume, force=force)


def train_recipe(
    recipe: Recipe,
    training: Dataset,
    held_out: Dataset,
    *,
    control: Control | None = None,
    team: Team = ALONE,
) -> Trained:
    """Trains on the data given. Same recipe, data, machine and team: the same bytes.

    Raises:
        TrainingError: the loss is no longer a number, or the file's bound exceeds the constant asked for.
        TrainingInterruptedError: the control asked for it.
        RecipeError: a binary loss for more than two classes; a batch larger than the data.
    """
    network, graph, fit = fit_network(recipe, training, held_out, control=control, team=team)
    with deterministic(recipe.training.threads):
        content, predictor = export(graph, claims(recipe, training, None))
        # What is measured of the file goes into the file: the same graph, written again with its figures.
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
        trained_by=team.description,
    )


def fit_network(
    recipe: Recipe,
    training: Dataset,
    held_out: Dataset | None,
    *,
    control: Control | None = None,
    team: Team = ALONE,
) -> tuple[nn.Sequential, Graph, Fit]:
    """Trains a network; returns it and its graph, in the units of the data, and how it went.

    Args:
        recipe: how.
        training: on what.
        held_out: for the learning curves alone; None to do without.
        control: what happens around it.
        team: the processes that train together; the network returned is on the CPU in any case.

    Raises:
        TrainingError, TrainingInterruptedError, RecipeError: see :func:`train_recipe`.
    """
    if recipe.loss.binary and len(training.classes) != 2:
        raise RecipeError(
            f"the loss is for 2 classes and {training.name} has {len(training.classes)}: "
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
        begin_(network, inputs, labels, generator)
        fit = Fit(
            network,
            recipe.loss,
            (inputs, labels),
            None if held_out is None else tensors(held_out),
            None if validation is None else tensors(validation),
            recipe.training,
            epsilon=max(recipe.epsilons, default=0.0) / float(scale.min()),
            generator=generator,
            team=team,
        )
        network = fit.run(control or Control()).cpu()
        return scaled(network, scale), in_units_of_the_data(to_graph(network), scale), fit


def _checkpoint(planned: Plan, out_dir: Path, team: Team, resume: bool, force: bool) -> Checkpoint:
    """Return the checkpoint of a training, with the values that must be the same to resume from it.

    Raises:
        RecipeError: the training may not begin, or go on, since it would replace what is there.
    """
    identity = {
        "recipe": planned.recipe.to_dict(),
        "the training data's sha256": planned.train.digest,
        "the held-out data's sha256": planned.held_out.digest,
        "the version of torch": torch.__version__,
        "what trained it": team.description,
    }
    checkpoint = Checkpoint(out_dir / f"{planned.recipe.name}.checkpoint", identity)
    if checkpoint.path.exists() and not resume:
        raise RecipeError(
            f"{checkpoint.path} holds an unfinished training: give --resume to go on with it, or delete it"
        )
    there = (path for path in (out_dir / f"{planned.recipe.name}{end}" for end in ENDS) if path.exists())
    if not (force or resume) and (path := next(there, None)):
        raise RecipeError(f"{path} is there already: give --force to replace it, or another --name")
    return checkpoint


def claims(recipe: Recipe, training: Dataset, evaluation: Evaluation | None) -> Claims:
    """What the file says of itself; nothing in it depends on the time or the place."""
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
