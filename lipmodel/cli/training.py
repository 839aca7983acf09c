"""``lipmodel train`` and ``figures``: from a recipe and data to an ONNX file and its report."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from lipmodel.cli.common import NORM, PATH, bar, data_dir_option, err, json_option, print_json, stdout
from lipmodel.display import certified_percent, percent, rounded_up
from lipmodel.errors import LipcertError, MissingExtraError

SHOWN = 300
"""Rows of data that are anybody's; those of your own may be somebody's."""


@click.command()
@click.argument("recipe")
@click.option("--out", required=True, type=PATH, help="Folder to write NAME.onnx, .json, .png and .html to.")
@click.option("--norm", type=NORM, help="Norm of the input that the network is 1-Lipschitz in.")
@click.option("--lipschitz", type=float, help="Lipschitz constant of each score, 1 by default.")
@click.option("--seed", type=click.IntRange(0))
@click.option("--epochs", type=click.IntRange(1))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change any key of the recipe.")
@data_dir_option
@click.option("--data", type=PATH, help="Data of your own: .npz, .csv or .parquet (label last), or a folder.")
@click.option("--name", help="NAME of the files written; by default the recipe's, or that of --data.")
@click.option("--force", is_flag=True, help="Replace files of that NAME; else they are left and refused.")
@click.option(
    "--samples",
    type=click.IntRange(0),
    help="Held-out rows to write to NAME.samples.npz, which a service shows to whoever may predict; "
    f"{SHOWN} by default, none of data of your own.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted training, from NAME.checkpoint.")
@click.option("--log-dir", type=PATH, help="Folder to write logs to that TensorBoard reads.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    help="What computes: cpu, or a GPU a process.",
)
@click.option(
    "--processes", type=click.IntRange(1), default=1, help="How many share each batch, on this machine."
)
@json_option
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
    """Train RECIPE and export it as ONNX, its bound checked in the file.

    RECIPE is a name (two-moons, digits, breast-cancer; with --data-dir: mnist, fashion-mnist,
    cifar-10, adult, spambase) or a .toml file of the same form.
    """
    try:
        from lipmodel.training.distributed import launch
        from lipmodel.training.logs import tensorboard
        from lipmodel.training.loop import Control, Status
        from lipmodel.training.progress import training_bar
        from lipmodel.training.recipes import parse_settings
        from lipmodel.training.signals import stop_on_signals
        from lipmodel.training.train import carry_out, follow, plan
    except ImportError as error:
        raise MissingExtraError("training", "train") from error

    given = overrides | {"settings": parse_settings(settings)}
    planned = plan(recipe, overrides=given, data_dir=data_dir, data=data, name=name)
    group = launch(device, processes)
    if group.rank > 0:
        with suppress(LipcertError):  # the first process tells of it
            follow(planned, out, group, control=Control(stop=stop_on_signals), resume=resume, force=force)
        return
    for topic, line in planned.summary.items():
        err.print(f"{topic:<11}{line}", markup=False, soft_wrap=True)
    largest = max(planned.recipe.epsilons, default=0.0)
    what = f"training {planned.recipe.name}"
    with tensorboard(log_dir) as log, training_bar(what, largest, err) as show:

        def watch(status: Status) -> None:
            show(status)
            log(status)

        control = Control(watch=watch, stop=stop_on_signals)
        if samples is None:
            samples = SHOWN if data is None else 0
        trained = carry_out(
            planned, out, control=control, resume=resume, group=group, samples=samples, force=force
        )
    record = trained.record()
    if as_json:
        print_json(record)
        return
    result, name = trained.evaluation, trained.recipe.name
    table = Table(
        title=f"{name}: {result.samples} held-out samples, {result.norm.symbol}", title_justify="left"
    )
    table.add_column("what")
    table.add_column("value", justify="right")
    constant = f"majority-class baseline '{escape(result.majority_class)}', at every size"
    table.add_row(constant, percent(result.majority_share))
    table.add_row("clean accuracy", percent(result.clean_accuracy))
    table.add_row("balanced accuracy", percent(result.balanced_accuracy))
    for epsilon, share in result.certified_accuracy.items():
        table.add_row(f"certified accuracy at {epsilon}", certified_percent(share))
    table.add_row("proved Lipschitz bound of a score", rounded_up(record["model"]["bound_global"], 9))
    table.add_row("seconds of training", f"{trained.seconds:.1f}")
    stdout.print(table)
    written = ".onnx, .json, .png, .html and .samples.npz" if samples else ".onnx, .json, .png and .html"
    stdout.print(f"wrote {out / name}{written}", markup=False)


@click.command()
@click.option("--out", required=True, type=PATH, help="Folder to write the plots and figures.json to.")
@json_option
def figures(out: Path, as_json: bool) -> None:
    """Repeat the experiments of Anil, Lucas and Grosse (2019): why GroupSort, why hinge."""
    try:
        from lipmodel.training.figures import make_figures
    except ImportError as error:
        raise MissingExtraError("figures", "train") from error

    with bar("drawing") as progress:
        numbers = make_figures(out, progress)
    if as_json:
        print_json(numbers)
    else:
        stdout.print_json(json.dumps(numbers))
        stdout.print(f"wrote figures.json and {len(numbers)} plots to {out}", markup=False)
