"""``lipmodel evaluate`` and ``audit``: what a model achieves, and evidence for or against its bounds."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.table import Table

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.cli.common import (
    EXISTING_FILE,
    NEGATIVE,
    bar,
    data_dir_option,
    err,
    json_option,
    norm_option,
    print_json,
    stdout,
)  # fmt: skip
from lipmodel.norms import Norm


@click.command()
@click.argument("model", type=EXISTING_FILE)
@click.option(
    "--data",
    required=True,
    help="A .npz with inputs and labels, a .csv or .parquet with labels last, a folder, or a name.",
)
@data_dir_option
@click.option("--eps", "epsilons", multiple=True, type=float, help="A size of change; may be given again.")
@norm_option
@json_option
def evaluate(
    model: Path,
    data: str,
    data_dir: Path | None,
    epsilons: tuple[float, ...],
    norm: str | None,
    as_json: bool,
) -> None:
    """Measure clean and certified accuracy of MODEL on labelled data."""
    from lipmodel.data import load_labelled
    from lipmodel.evaluate import evaluate as run

    predictor = CertifiedPredictor(model)
    dataset = load_labelled(data, data_dir)
    with bar("evaluating") as progress:
        result = run(
            predictor, dataset.inputs, dataset.labels, Norm(norm) if norm else None, epsilons, progress
        )
    if as_json:
        print_json({"sha256": predictor.file.sha256, **result.to_dict()})
        return
    table = Table(title=f"{result.samples} samples, l{result.norm}", title_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_row("clean accuracy", f"{result.clean_accuracy:.2%}")
    for epsilon, share in result.certified_accuracy.items():
        table.add_row(f"certified accuracy at {epsilon}", f"{share:.2%}")
    table.add_row("average certified radius", f"{result.average_certified_radius:.4g}")
    stdout.print(table)


@click.command()
@click.argument("model", type=EXISTING_FILE)
@click.option("--data", help="Inputs to look at beside random ones, as for evaluate.")
@data_dir_option
@click.option("--samples", default=1000, show_default=True, type=click.IntRange(0, 1_000_000))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@norm_option
@json_option
def audit(
    model: Path,
    data: str | None,
    data_dir: Path | None,
    samples: int,
    seed: int,
    norm: str | None,
    as_json: bool,
) -> None:
    """Measure gradients of MODEL and attack its radii: evidence for or against its bounds."""
    from lipmodel.audit.report import audit as run
    from lipmodel.data import load_labelled

    predictor = CertifiedPredictor(model)
    inputs = load_labelled(data, data_dir).inputs if data else None
    with bar("auditing") as progress:
        report = run(
            predictor,
            norm=Norm(norm) if norm else None,
            inputs=inputs,
            samples=samples,
            seed=seed,
            progress=progress,
        )
    if as_json:
        print_json(report.to_dict())
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
