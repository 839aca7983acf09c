"""The ``lipmodel`` command: train, figures, inspect, certify, verify, evaluate, audit.

Exit status: 0 fine; 1 a negative finding (a file refused, a claim unproved, an audit that refutes);
2 bad use. ``--json`` prints one JSON object on standard output and nothing else; whatever is for
people only goes to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import ROUND_DOWN, Context, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lipmodel import __version__
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import LipcertError, MissingExtraError, ModelError
from lipmodel.norms import Norm

if TYPE_CHECKING:
    from lipmodel.audit.tightness import Tightness

NEGATIVE, BAD_USE = 1, 2
MAX_ROWS_SHOWN = 20
MAX_INPUTS_ATTACKED = 60

stdout = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Command = TypeVar("Command", bound=Callable[..., Any])
MODEL = click.Path(path_type=Path)
EXISTING_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
NORM = click.Choice([norm.value for norm in Norm])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
norm_option = click.option("--norm", type=NORM, help="Norm of the input; by default the one the file names.")


class _Group(click.Group):
    """Shows our own errors as one line, with the exit status that fits."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModelError as error:
            err.print(f"refused: {error}", style="red", markup=False)
            ctx.exit(NEGATIVE)
        except LipcertError as error:
            err.print(f"error: {error}", style="red", markup=False)
            ctx.exit(BAD_USE)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lipmodel")
def main() -> None:
    """Trains Lipschitz classifiers and proves certified radii from ONNX files alone."""


@main.command()
@click.argument("recipe")
@click.option(
    "--out", required=True, type=MODEL, help="Folder to write NAME.onnx, NAME.json and NAME.png to."
)
@click.option("--norm", type=NORM, help="Norm of the input that the network is 1-Lipschitz in.")
@click.option("--lipschitz", type=float, help="Lipschitz constant of each score, 1 by default.")
@click.option("--seed", type=click.IntRange(0))
@click.option("--epochs", type=click.IntRange(1))
@click.option("--data-dir", type=MODEL, help="Folder of IDX files, for mnist.")
@json_option
def train(recipe: str, out: Path, data_dir: Path | None, as_json: bool, **overrides: Any) -> None:
    """Train RECIPE (two-moons, digits or mnist) and export it as ONNX, its bound checked in the file."""
    try:
        from lipmodel.training.progress import training_bar
        from lipmodel.training.train import train as run
    except ImportError as error:
        raise MissingExtraError("training", "train") from error

    given = {key: value for key, value in overrides.items() if value is not None}
    with training_bar(f"training {recipe}", err) as watch:
        trained = run(recipe, out, overrides=given, data_dir=data_dir, watch=watch)
    record = trained.record()
    if as_json:
        _print_json(record)
        return
    result, name = trained.evaluation, trained.recipe.name
    table = Table(title=f"{name}: {result.samples} held-out samples, l{result.norm}", title_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_row("clean accuracy", f"{result.clean_accuracy:.2%}")
    for epsilon, share in result.certified_accuracy.items():
        table.add_row(f"certified accuracy at {epsilon}", f"{share:.2%}")
    table.add_row("proved Lipschitz bound of a score", f"{record['model']['bound_global']:.9g}")
    table.add_row("seconds of training", f"{trained.seconds:.1f}")
    stdout.print(table)
    stdout.print(f"wrote {out / name}.onnx, .json and .png", markup=False)


@main.command()
@click.option("--out", required=True, type=MODEL, help="Folder to write the plots and figures.json to.")
@json_option
def figures(out: Path, as_json: bool) -> None:
    """Repeat the experiments of Anil, Lucas and Grosse (2019): why GroupSort, why hinge."""
    try:
        from lipmodel.training.figures import make_figures
    except ImportError as error:
        raise MissingExtraError("figures", "train") from error

    with _bar("drawing") as progress:
        numbers = make_figures(out, progress)
    if as_json:
        _print_json(numbers)
    else:
        stdout.print_json(json.dumps(numbers))
        stdout.print(f"wrote figures.json and {len(numbers)} plots to {out}", markup=False)


@main.command()
@click.argument("model", type=EXISTING_FILE)
@click.option("--tightness", help="Data, as for evaluate: also compare radii there with the best attack.")
@json_option
def inspect(model: Path, tightness: str | None, as_json: bool) -> None:
    """Tell what is proved of MODEL: its operators, its Lipschitz bounds, its claims against the proof."""
    try:
        predictor = CertifiedPredictor(model)
    except ModelError as error:
        if not as_json:
            raise
        _print_json({"status": "refused", "reason": str(error)})
        sys.exit(NEGATIVE)
    bounds = {norm: predictor.bounds(norm) for norm in Norm}
    claims = predictor.claims
    unproved = predictor.claim_proved is False
    reason = None
    if unproved:
        assert claims.norm is not None
        reason = (
            f"the file claims a Lipschitz constant of {claims.lipschitz!r} in l{claims.norm}; "
            f"what is proved is {bounds[claims.norm].bound_global!r}"
        )
    measured = _measure_tightness(predictor, tightness) if tightness else None
    if as_json:
        _print_json(
            {
                "status": "unproved" if unproved else "proved",
                "reason": reason,
                "sha256": predictor.file.sha256,
                "ops": predictor.file.operators,
                "input_shape": list(predictor.file.graph.input_shape),
                "classes": list(predictor.class_names),
                "bounds": {
                    norm.value: {
                        "global": bound.bound_global,
                        "per_pair": bound.bound_per_pair.tolist(),
                        "layers": [vars(layer) for layer in bound.layers],
                    }
                    for norm, bound in bounds.items()
                },
                "claim": None
                if claims.lipschitz is None and claims.norm is None
                else {
                    "norm": claims.norm,
                    "lipschitz": claims.lipschitz,
                    "proved": predictor.claim_proved,
                },
                "ignored_metadata": list(claims.ignored),
                **({} if measured is None else {"tightness": measured.to_dict()}),
            }
        )
    else:
        _show_inspection(predictor, bounds, reason)
        if measured is not None:
            _show_tightness(measured)
    sys.exit(NEGATIVE if unproved else 0)


def _measure_tightness(predictor: CertifiedPredictor, data: str) -> Tightness:
    from lipmodel.audit.tightness import measure_tightness
    from lipmodel.data import load_labelled

    inputs = load_labelled(data).inputs[:MAX_INPUTS_ATTACKED]
    with _bar("attacking") as progress:
        return measure_tightness(predictor, inputs, progress=progress)


def _show_tightness(measured: Tightness) -> None:
    table = Table(
        title=f"Radius over the nearest change of label found, median of {measured.points}, l{measured.norm}",
        title_justify="left",
    )
    for heading in ("bounds", "radius / attack", "seconds an input"):
        table.add_column(heading)
    table.add_row("Lipschitz", f"{measured.lipschitz:.3f}", f"{measured.lipschitz_seconds:.2g}")
    if measured.local is not None:
        table.add_row("local (--tighten)", f"{measured.local:.3f}", f"{measured.local_seconds:.2g}")
    stdout.print(table)
    if measured.reason:
        stdout.print(f"no local bounds: {measured.reason}", markup=False)


def _show_inspection(predictor: CertifiedPredictor, bounds: dict[Norm, Any], reason: str | None) -> None:
    file = predictor.file
    stdout.print(f"sha256     {file.sha256}")
    stdout.print(f"input      {list(file.graph.input_shape)} per sample, {file.dtype.__name__}")
    stdout.print(f"classes    {', '.join(predictor.class_names)}", markup=False)
    stdout.print("operators  " + ", ".join(f"{op} × {count}" for op, count in file.operators.items()))
    table = Table(title="Proved Lipschitz bounds", title_justify="left")
    for heading in (
        "norm of the input",
        "any score",
        "two scores, least",
        "two scores, largest",
        "layer by layer",
    ):
        table.add_column(heading)
    for norm, bound in bounds.items():
        pairs = bound.bound_per_pair
        between = pairs[~np.eye(len(pairs), dtype=bool)]
        layers = " · ".join(f"{layer.bound:.4g}" for layer in bound.layers)
        table.add_row(
            f"l{norm}", f"{bound.bound_global:.9g}", f"{between.min():.9g}", f"{between.max():.9g}", layers
        )
    stdout.print(table)
    layers = bounds[predictor.default_norm].layers
    loosest = max(layers, key=lambda layer: layer.unevenness, default=None)
    if loosest is not None:
        times = f"{loosest.unevenness:.3g}"
        stdout.print(f"loosest    '{loosest.node}': its norm is {times} × its average gain", markup=False)
    claims = predictor.claims
    if claims.lipschitz is not None and claims.norm is not None:
        verdict = "[red]not proved[/red]" if reason else "[green]proved[/green]"
        stdout.print(f"claim      {claims.lipschitz:g}-Lipschitz in l{claims.norm}: {verdict}")
    else:
        stdout.print("claim      none in the file")
    for line in claims.ignored:
        stdout.print(f"ignored    {line}", markup=False)
    if reason:
        err.print(reason, style="red", markup=False)


@main.command()
@click.argument("model", type=EXISTING_FILE)
@click.option("--inputs", required=True, type=MODEL, help="Rows to certify: .npy, .csv or .parquet.")
@click.option("--certificates", type=MODEL, help="Folder to write one certificate a row to, for verify.")
@click.option(
    "--tighten",
    is_flag=True,
    help="Larger radii, up to half a second a row: from mixtures of a class's scores and from local bounds. "
    "Certificates state what mixtures prove; of local bounds there are none.",
)
@norm_option
@json_option
def certify(
    model: Path, inputs: Path, certificates: Path | None, tighten: bool, norm: str | None, as_json: bool
) -> None:
    """Predict each row of a file with the radius inside which no change alters the answer."""
    from lipmodel.data import load_inputs

    predictor = CertifiedPredictor(model)
    rows_given, norm_given = load_inputs(inputs), Norm(norm) if norm else None
    result = predictor.predict(rows_given, norm_given, tighten=tighten)
    if certificates is not None:
        _write_certificates(predictor, rows_given, norm_given, certificates, mix=tighten)
    radii, names = result.radii, predictor.class_names
    rows = [
        {
            "label": names[label],
            "label_index": int(label),
            "scores": scores.tolist(),
            "margin": float(margin),
            "certified_radius": float(radius),
            "radius_float32_portable": float(portable),
            "runner_up": names[runner_up],
        }
        for label, scores, margin, radius, portable, runner_up in zip(
            radii.label,
            result.scores,
            radii.margin,
            radii.certified_radius,
            predictor.portable_radii(rows_given, norm_given),
            radii.runner_up,
            strict=True,
        )
    ]
    tightening = result.tightening
    if tightening is not None:
        for row, method, seconds in zip(rows, tightening.method, tightening.seconds, strict=True):
            row |= {"method": str(method), "seconds": float(seconds)}
        if tightening.reason:
            err.print(f"no local bounds: {tightening.reason}", markup=False)
    if as_json:
        _print_json({"sha256": predictor.file.sha256, "norm": result.norm.value, "predictions": rows})
        return
    table = Table(title=f"{len(rows)} inputs, radii in l{result.norm}", title_justify="left")
    for heading in ("row", "label", "certified radius", "portable radius", "margin", "runner-up"):
        table.add_column(heading)
    for index, row in enumerate(rows[:MAX_ROWS_SHOWN]):
        shown = [_rounded_down(row[key]) for key in ("certified_radius", "radius_float32_portable")]
        table.add_row(str(index), str(row["label"]), *shown, f"{row['margin']:.6g}", str(row["runner_up"]))
    stdout.print(table)
    if len(rows) > MAX_ROWS_SHOWN:
        stdout.print(f"… and {len(rows) - MAX_ROWS_SHOWN} more; --json prints all of them")


def _write_certificates(
    predictor: CertifiedPredictor, inputs: Any, norm: Norm | None, folder: Path, *, mix: bool
) -> None:
    """One file a row, named by its number."""
    from lipmodel.certify.issue import certify as make_certificates

    if folder.exists() and any(folder.iterdir()):
        raise click.UsageError(f"{folder} is not empty; certificates are written to a new or empty folder")
    made = make_certificates(predictor, inputs, norm, mix=mix)
    folder.mkdir(parents=True, exist_ok=True)
    for index, certificate in enumerate(made):
        (folder / f"{index}.json").write_text(certificate.to_json() + "\n", encoding="utf-8")
    err.print(f"wrote {len(made)} certificates to {folder}", markup=False)


@main.command()
@click.argument("certificate", type=EXISTING_FILE)
@click.option("--model", type=EXISTING_FILE, help="The ONNX file that it speaks of.")
@click.option("--input", "given", type=EXISTING_FILE, help="The input that was sent, as one row.")
@json_option
def verify(certificate: Path, model: Path | None, given: Path | None, as_json: bool) -> None:
    """Check CERTIFICATE again in exact arithmetic: every number, from the model and its input alone.

    Without --model only its consistency can be checked: whether the radius follows from the bounds
    that it states, not whether these are bounds; the exit status is then 1, since nothing is proved.
    """
    from lipmodel.certify.certificate import MAX_BYTES, Certificate
    from lipmodel.data import load_inputs
    from lipmodel.verify.check import verify as run

    with certificate.open("rb") as file:
        read = Certificate.from_json(file.read(MAX_BYTES + 1))
    verdict = run(read, model, load_inputs(given) if given else None)
    if as_json:
        _print_json(verdict.to_dict())
    else:
        for check in verdict.checks:
            mark = "[green]✓[/green]" if check.passed else "[red]✗[/red]"
            reason = f": {escape(check.reason)}" if check.reason else ""
            stdout.print(f"{mark} {check.name}{reason}", soft_wrap=True)
        stdout.print(f"{verdict.verdict}: {verdict.meaning}", soft_wrap=True)
    # Without the model nothing is proved: whoever tests the exit status must not take it for proof.
    sys.exit(NEGATIVE if verdict.reasons or model is None else 0)


@main.command()
@click.argument("model", type=EXISTING_FILE)
@click.option(
    "--data",
    required=True,
    help="A .npz with inputs and labels, a .csv with labels last, a folder of IDX files, two-moons, digits.",
)
@click.option("--eps", "epsilons", multiple=True, type=float, help="A size of change; may be given again.")
@norm_option
@json_option
def evaluate(model: Path, data: str, epsilons: tuple[float, ...], norm: str | None, as_json: bool) -> None:
    """Measure clean and certified accuracy of MODEL on labelled data."""
    from lipmodel.data import load_labelled
    from lipmodel.evaluate import evaluate as run

    predictor = CertifiedPredictor(model)
    dataset = load_labelled(data)
    with _bar("evaluating") as progress:
        result = run(
            predictor, dataset.inputs, dataset.labels, Norm(norm) if norm else None, epsilons, progress
        )
    if as_json:
        _print_json({"sha256": predictor.file.sha256, **result.to_dict()})
        return
    table = Table(title=f"{result.samples} samples, l{result.norm}", title_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_row("clean accuracy", f"{result.clean_accuracy:.2%}")
    for epsilon, share in result.certified_accuracy.items():
        table.add_row(f"certified accuracy at {epsilon}", f"{share:.2%}")
    table.add_row("average certified radius", f"{result.average_certified_radius:.4g}")
    stdout.print(table)


@main.command()
@click.argument("model", type=EXISTING_FILE)
@click.option("--data", help="Inputs to look at beside random ones, as for evaluate.")
@click.option("--samples", default=1000, show_default=True, type=click.IntRange(0, 1_000_000))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@norm_option
@json_option
def audit(model: Path, data: str | None, samples: int, seed: int, norm: str | None, as_json: bool) -> None:
    """Measure gradients of MODEL and attack its radii: evidence for or against its bounds."""
    from lipmodel.audit.report import audit as run
    from lipmodel.data import load_labelled

    predictor = CertifiedPredictor(model)
    inputs = load_labelled(data).inputs if data else None
    with _bar("auditing") as progress:
        report = run(
            predictor,
            norm=Norm(norm) if norm else None,
            inputs=inputs,
            samples=samples,
            seed=seed,
            progress=progress,
        )
    if as_json:
        _print_json(report.to_dict())
    else:
        table = Table(title=f"Audit in l{report.norm}", title_justify="left")
        table.add_column("what")
        table.add_column("value", justify="right")
        table.add_row("verdict", f"[{'red' if report.reasons else 'green'}]{report.verdict}")
        table.add_row("certified Lipschitz bound of a score", f"{report.bound:.9g}")
        table.add_row("claimed", "nothing" if report.claim is None else f"{report.claim:.9g}")
        table.add_row("largest gradient observed", f"{report.observed:.9g}")
        table.add_row("tightness (observed / bound)", f"{report.tightness:.4f}")
        table.add_row("inputs attacked inside their radius", str(report.points["attacked"]))
        table.add_row("of which changed label", str(report.flips))
        stdout.print(table)
        for line in report.reasons:
            err.print(line, style="red", markup=False)
    sys.exit(NEGATIVE if report.verdict == "refuted" else 0)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[float], None]]:
    """A progress bar on standard error, on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda share: progress.update(task, completed=share)


def _rounded_down(radius: float) -> str:
    """A radius with fewer digits is still a promise only if the digits were cut downwards."""
    if not radius:
        return "0 (abstains)"
    return str(Context(prec=6, rounding=ROUND_DOWN).create_decimal(Decimal(radius)))


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, allow_nan=False))
