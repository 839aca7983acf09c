"""``lipmodel train`` and ``lipmodel figures``: from a recipe and data to an ONNX file and its report."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lipmodel.cli import common
from lipmodel.display import rounded_up
from lipmodel.errors import LipcertError, MissingExtraError
from lipmodel.report.tables import accuracy_table

DEFAULT_SAMPLES = 300
"""Sample rows of public data sets; custom data may be confidential."""


@click.command()
@click.argument("recipe")
@click.option("--out", required=True, type=common.PATH, help="Folder for NAME.onnx, .json, .png and .html.")
@click.option(
    "--norm", type=common.NORM, help="Norm of the bound and of radii; also 1, 2, inf.  [default: l2]"
)
@click.option("--lipschitz", type=float, help="Lipschitz constant of each score.  [default: the recipe's]")
@click.option("--seed", type=click.IntRange(0), help="Seed of the training.  [default: the recipe's]")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the data.  [default: the recipe's]")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Set any key of the recipe, for example training.batch_size=32. Repeatable.",
)  # fmt: skip
@common.data_dir_option
@click.option(
    "--data", type=common.PATH, help="Custom data: .npz, .csv or .parquet (labels last), or a folder."
)
@click.option("--name", help="NAME of the files.  [default: the name of the recipe, or of --data]")
@click.option("--force", is_flag=True, help="Replace existing files of that NAME.")
@click.option(
    "--samples",
    type=click.IntRange(0),
    help="Number of held-out rows in NAME.samples.npz, which the service shows to clients.  "
    f"[default: {DEFAULT_SAMPLES}, or 0 with --data]",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted training from NAME.checkpoint.")
@click.option("--log-dir", type=common.PATH, help="Folder for TensorBoard logs.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Device of each process; with cuda each has a GPU.",
)
@click.option(
    "--processes", type=click.IntRange(1), default=1, show_default=True,
    help="Number of processes on this machine that share each batch.",
)  # fmt: skip
@common.json_option
def train(
    recipe: str,
    out: Path,
    settings: tuple[str, ...],
    data_dir: Path | None,
    data: Path | None,
    name: str | None,
    force: bool,
    samples: int | None,
    resume: bool,
    log_dir: Path | None,
    device: str,
    processes: int,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Train a network by RECIPE and export it to an ONNX file with a proved Lipschitz bound.

    RECIPE is a name (two-moons, digits, breast-cancer; with --data-dir: mnist, fashion-mnist,
    cifar-10, adult, spambase) or a .toml file.
    """
    try:
        from lipmodel.training.distributed import launch
        from lipmodel.training.loop import Control, Status
        from lipmodel.training.progress import stop_on_signals, tensorboard, training_bar
        from lipmodel.training.recipes import parse_settings
        from lipmodel.training.train import carry_out, follow, plan
    except ImportError as error:
        raise MissingExtraError("training", "train") from error

    given = overrides | {"settings": parse_settings(settings)}
    planned = plan(recipe, overrides=given, data_dir=data_dir, data=data, name=name)
    group = launch(device, processes)
    if group.rank > 0:
        with suppress(LipcertError):  # reported by the first process
            follow(planned, out, group, control=Control(stop=stop_on_signals), resume=resume, force=force)
        return
    for topic, line in planned.summary.items():
        common.err.print(f"{topic:<11}{line}", markup=False, soft_wrap=True)
    largest = max(planned.recipe.epsilons, default=0.0)
    title = f"training {planned.recipe.name}"
    with tensorboard(log_dir) as log, training_bar(title, largest, common.err) as show:

        def watch(status: Status) -> None:
            show(status)
            log(status)

        control = Control(watch=watch, stop=stop_on_signals)
        if samples is None:
            samples = DEFAULT_SAMPLES if data is None else 0
        trained = carry_out(
            planned, out, control=control, resume=resume, group=group, samples=samples, force=force
        )
    record = trained.record()
    if as_json:
        common.print_json(record)
        return
    name = trained.recipe.name
    table = accuracy_table(trained.evaluation)
    bound = rounded_up(record["model"]["bound_global"], 9)
    more = [("Lipschitz bound of a score, proved", bound), ("seconds of training", f"{trained.seconds:.1f}")]
    rows = [*table.rows, *((*row, "", "") for row in more)]
    common.print_tables(replace(table, title=f"{name}: {table.title}, held out", rows=rows))
    written = ".onnx, .json, .png, .html and .samples.npz" if samples else ".onnx, .json, .png and .html"
    common.stdout.print(f"wrote {out / name}{written}", markup=False)


@click.command()
@click.option("--out", required=True, type=common.PATH, help="Folder for the plots and figures.json.")
@common.json_option
def figures(out: Path, as_json: bool) -> None:
    """Reproduce experiments of Anil, Lucas and Grosse (2019) on GroupSort and the hinge loss."""
    try:
        from lipmodel.training.figures import make_figures
    except ImportError as error:
        raise MissingExtraError("figures", "train") from error

    with common.bar("drawing") as progress:
        numbers = make_figures(out, progress)
    if as_json:
        common.print_json(numbers)
    else:
        common.stdout.print_json(json.dumps(numbers))
        common.stdout.print(f"wrote figures.json and {len(numbers)} plots to {out}", markup=False)
