"""``lipmodel certify`` and ``verify``: radii of inputs, and certificates checked again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.cli.common import (
    EXISTING_FILE,
    NEGATIVE,
    PATH,
    err,
    json_option,
    norm_option,
    print_json,
    stdout,
)
from lipmodel.display import rounded_down
from lipmodel.norms import Norm

MAX_ROWS_SHOWN = 20


@click.command()
@click.argument("model", type=EXISTING_FILE)
@click.option("--inputs", required=True, type=PATH, help="Rows to certify: .npy, .csv or .parquet.")
@click.option("--certificates", type=PATH, help="Folder to write one certificate a row to, for verify.")
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
        print_json({"sha256": predictor.file.sha256, "norm": result.norm.value, "predictions": rows})
        return
    table = Table(title=f"{len(rows)} inputs, radii in l{result.norm}", title_justify="left")
    for heading in ("row", "label", "certified radius", "portable radius", "margin", "runner-up"):
        table.add_column(heading)
    for index, row in enumerate(rows[:MAX_ROWS_SHOWN]):
        shown = [rounded_down(row[key]) for key in ("certified_radius", "radius_float32_portable")]
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


@click.command()
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
        print_json(verdict.to_dict())
    else:
        for check in verdict.checks:
            mark = "[green]✓[/green]" if check.passed else "[red]✗[/red]"
            reason = f": {escape(check.reason)}" if check.reason else ""
            stdout.print(f"{mark} {check.name}{reason}", soft_wrap=True)
        stdout.print(f"{verdict.verdict}: {verdict.meaning}", soft_wrap=True)
    # Without the model nothing is proved: whoever tests the exit status must not take it for proof.
    sys.exit(NEGATIVE if verdict.reasons or model is None else 0)
