"""``lipmodel evaluate`` and ``lipmodel audit``: a model's accuracies, and evidence about its bounds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lipmodel.audit.attacks.registry import METHODS
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.cli import common
from lipmodel.errors import MissingExtraError
from lipmodel.norms import Norm
from lipmodel.report.tables import accuracy_table, attack_tables, audit_table, pair_table

MAX_PAIRS_SHOWN = 10

method_option = click.option(
    "--attack-method", "methods", multiple=True, type=click.Choice(METHODS),
    help="An attack in addition to the built-in one. Repeatable.",
)  # fmt: skip
report_option = click.option(
    "--report", "folder", type=common.PATH, help="Folder for a report in JSON, Markdown and HTML, with plots."
)
engine_option = click.option(
    "--engine", type=click.Choice(["local", "ray"]),
    help="Run on all cores of this machine, or on a Ray cluster (RAY_ADDRESS), in place of one process; the "
    "results are equal.",
)  # fmt: skip
labels_option = click.option(
    "--labels", type=common.EXISTING_FILE, help="Labels (.npy) for a .npy of inputs."
)


@click.command()
@click.argument("model", type=common.EXISTING_FILE)
@click.option(
    "--data",
    required=True,
    help="Labelled data: a .npz with inputs and labels, a .csv or .parquet with labels last, a .npy with "
    "--labels, a folder, a data set's name, or .parquet files by pattern ('dir/*.parquet') or URL "
    "(s3://…). Files in .npy, .parquet and IDX format may be larger than memory.",
)
@labels_option
@common.data_dir_option
@click.option(
    "--eps", "epsilons", multiple=True, type=float, help="Radius for certified accuracy. Repeatable."
)
@click.option("--tighten", is_flag=True, help="Compute larger radii, in up to half a second per row.")
@click.option(
    "--attack", "attacked", default=0, type=click.IntRange(0), metavar="ROWS",
    help="Number of rows to attack for the accuracy under attack: a random sample, stratified by label.",
)  # fmt: skip
@method_option
@engine_option
@report_option
@common.norm_option
@common.threat_option
@common.scale_option
@common.freeze_option
@common.json_option
def evaluate(
    model: Path,
    data: str,
    labels: Path | None,
    data_dir: Path | None,
    epsilons: tuple[float, ...],
    tighten: bool,
    attacked: int,
    methods: tuple[str, ...],
    engine: str | None,
    folder: Path | None,
    norm: Norm | None,
    threat: str | None,
    scale: str | None,
    freeze: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure clean accuracy, certified accuracy and accuracy under attack of MODEL on labelled data."""
    from lipmodel.bulk.shard_executor import EngineExecutor
    from lipmodel.bulk.sources import find_source
    from lipmodel.evaluate import evaluate as run

    predictor = CertifiedPredictor(model)
    changes = common.threat_of(predictor, norm, threat, scale, freeze)
    source = find_source(data, data_dir, labels)
    stream = source.open()
    if Path(data).suffix == ".npy" and labels is None:
        raise click.UsageError("a .npy of inputs requires --labels, a .npy of class indices")
    with common.bar("evaluating") as progress:
        result = run(
            predictor, stream, None, changes, epsilons, progress,
            tighten=tighten, attacked=attacked, methods=methods,
            executor=EngineExecutor(predictor.file, source, engine) if engine else None,
        )  # fmt: skip
    if folder is not None:
        titles = {"model": model.name, "data": stream.name, "units": stream.units}
        _write_report(folder, "evaluation", predictor, result, titles)
    if as_json:
        common.print_json({"sha256": predictor.file.sha256, **result.to_dict()})
    else:
        common.print_tables(accuracy_table(result), *attack_tables(result))
        _show_warnings(result.warnings)


@click.command()
@click.argument("model", type=common.EXISTING_FILE)
@click.option("--data", help="Inputs to examine in addition to random points; formats as for evaluate.")
@labels_option
@common.data_dir_option
@click.option(
    "--samples", default=1000, show_default=True, type=click.IntRange(0, 1_000_000),
    help="Number of random points.",
)  # fmt: skip
@click.option(
    "--attack", "attacked", default=200, show_default=True, type=click.IntRange(0), metavar="ROWS",
    help="Number of inputs to attack; those of --data come first.",
)  # fmt: skip
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the random points."
)
@method_option
@engine_option
@report_option
@common.norm_option
@common.json_option
def audit(
    model: Path,
    data: str | None,
    labels: Path | None,
    data_dir: Path | None,
    samples: int,
    attacked: int,
    seed: int,
    methods: tuple[str, ...],
    engine: str | None,
    folder: Path | None,
    norm: Norm | None,
    as_json: bool,
) -> None:
    """Test the bounds of MODEL by its gradients, and its radii by attacks; evidence, not proof."""
    from lipmodel.audit.report import audit as run
    from lipmodel.bulk.shard_executor import EngineExecutor
    from lipmodel.bulk.sources import find_source

    predictor = CertifiedPredictor(model)
    source = find_source(data, data_dir, labels) if data else None
    stream = source.open() if source else None
    with common.bar("auditing") as progress:
        report = run(
            predictor,
            norm=norm,
            inputs=stream,
            samples=samples,
            attacked=attacked,
            methods=methods,
            seed=seed,
            progress=progress,
            executor=EngineExecutor(predictor.file, source, engine) if engine else None,
        )
    if folder is not None:
        titles = {"model": model.name, "data": stream.name if stream else "random points"}
        _write_report(folder, "audit", predictor, report, titles)
    if as_json:
        common.print_json(report.to_dict())
    else:
        common.print_tables(audit_table(report), pair_table(report, MAX_PAIRS_SHOWN, columns=6))
        for line in report.reasons:
            common.err.print(line, style="red", markup=False)
        _show_warnings(report.warnings)
    sys.exit(common.NEGATIVE if report.verdict == "refuted" else 0)


def _write_report(
    folder: Path, name: str, predictor: CertifiedPredictor, found: Any, titles: dict[str, str]
) -> None:
    """Write the report of that name; raise MissingExtraError if a package for reports is not installed."""
    try:
        from lipmodel.report.audit import audit_files
        from lipmodel.report.evaluation import evaluation_files
        from lipmodel.report.page import write_files
    except ModuleNotFoundError:
        raise MissingExtraError("--report", "report") from None
    files: dict[str, Any] = {"evaluation": evaluation_files, "audit": audit_files}
    write_files(files[name](predictor, found, **titles), folder)
    common.err.print(f"wrote {folder / name}.html and its parts", markup=False)


def _show_warnings(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        common.err.print(f"warning: {warning}", style="yellow", markup=False)
