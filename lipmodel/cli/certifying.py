"""``lipmodel certify`` and ``lipmodel verify``: certified radii, and verification of certificates."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.cli import common
from lipmodel.display import certified_radius, rounded
from lipmodel.norms import Norm
from lipmodel.report.tables import Table
from lipmodel.threat import Threat

MAX_ROWS_SHOWN = 20
MAX_NAME = 255
"""Characters of a file name; a longer argument can only be a signed certificate."""


@click.command()
@click.argument("model", type=common.EXISTING_FILE)
@click.option(
    "--inputs", required=True,
    help="Rows to certify: a .npy, .csv or .parquet file. With --out also several files, of any size, by "
    "pattern ('dir/*.parquet') or URL (s3://…).",
)  # fmt: skip
@click.option(
    "--out",
    help="Folder or URL for the results as parquet files, one row per input. An interrupted command "
    "continues when repeated.",
)
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="With --out: run on all cores of this machine, or on a Ray cluster (RAY_ADDRESS).",
)  # fmt: skip
@click.option("--certificates", type=common.PATH, help="Folder for the certificates, one file per row.")
@click.option(
    "--tighten",
    is_flag=True,
    help="Compute larger radii, in up to half a second per row, from mixtures of a class's scores and from "
    "local bounds. Certificates state the radii of mixtures; there are none for local bounds.",
)
@common.norm_option
@common.threat_option
@common.scale_option
@common.freeze_option
@common.json_option
def certify(
    model: Path,
    inputs: str,
    out: str | None,
    engine: str,
    certificates: Path | None,
    tighten: bool,
    norm: Norm | None,
    threat: str | None,
    scale: str | None,
    freeze: tuple[str, ...],
    as_json: bool,
) -> None:
    """Predict each row of a file, with its certified radius: no smaller change alters the label."""
    from lipmodel.data.load import load_inputs

    predictor = CertifiedPredictor(model)
    changes = common.threat_of(predictor, norm, threat, scale, freeze)
    if out is not None:
        if isinstance(changes, Threat):
            raise click.UsageError("--out accepts the ball of a --norm, not --threat, --scale or --freeze")
        if certificates is not None:
            raise click.UsageError("--certificates cannot be combined with --out; certify one file at a time")
        from lipmodel.bulk.run import certify_files

        with common.bar("certifying") as progress:
            summary = certify_files(predictor, inputs, out, norm, progress, tighten=tighten, engine=engine)
        if as_json:
            common.print_json(asdict(summary))
            return
        before = f"; {summary.found} rows were done before" if summary.found else ""
        written = f"results of {summary.rows} rows are in {summary.partitions} files in {escape(out)}{before}"
        common.stdout.print(written, soft_wrap=True)
        return
    if engine != "local":
        raise click.UsageError(f"--engine {engine} requires --out, the folder of the results")
    rows_given = load_inputs(Path(inputs))
    result = predictor.predict(rows_given, changes, tighten=tighten)
    if certificates is not None:
        from lipmodel.certify.issue import certify as make_certificates

        if certificates.exists() and any(certificates.iterdir()):
            raise click.UsageError(
                f"{certificates} is not empty; --certificates accepts a new or empty folder"
            )
        made = make_certificates(predictor, rows_given, changes, mix=tighten)
        certificates.mkdir(parents=True, exist_ok=True)
        for index, certificate in enumerate(made):
            (certificates / f"{index}.json").write_text(certificate.to_json() + "\n", encoding="utf-8")
        common.err.print(f"wrote {len(made)} certificates to {certificates}", markup=False)
    radii, names = result.radii, predictor.class_names
    columns = (radii.label, result.scores, radii.margin, radii.certified_radius)
    portable_radii = predictor.portable_radii(rows_given, changes)
    rows: list[dict[str, Any]] = [
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
            *columns, portable_radii, radii.runner_up, strict=True
        )
    ]
    tightening = result.tightening
    if tightening is not None:
        for row, method, seconds in zip(rows, tightening.method, tightening.seconds, strict=True):
            row |= {"method": str(method), "seconds": float(seconds)}
        if tightening.reason:
            common.err.print(f"no local bounds: {tightening.reason}", markup=False)
    if as_json:
        file = {"sha256": predictor.file.sha256, **result.threat.to_json()}
        common.print_json(file | {"execution": result.execution.__name__, "predictions": rows})
        return
    headings = ("row", "label", "certified radius", "portable radius", "margin", "runner-up")
    shown = []
    for index, row in enumerate(rows[:MAX_ROWS_SHOWN]):
        limits = [certified_radius(row[key]) for key in ("certified_radius", "radius_float32_portable")]
        shown.append((str(index), row["label"], *limits, rounded(row["margin"]), row["runner_up"]))
    common.print_tables(Table(f"{len(rows)} inputs, radii in {result.threat}", headings, shown))
    if len(rows) > MAX_ROWS_SHOWN:
        common.stdout.print(f"… and {len(rows) - MAX_ROWS_SHOWN} more; --json prints all rows")


@click.command()
@click.argument("certificate")
@click.option("--model", type=common.EXISTING_FILE, help="The certified ONNX file.")
@click.option("--input", "given", type=common.EXISTING_FILE, help="The certified input, a file with one row.")
@click.option(
    "--jwks",
    multiple=True,
    metavar="FILE_OR_URL",
    help="Keys of trusted issuers, for a signed certificate: a JSON Web Key Set. Repeatable.",
)
@common.json_option
def verify(
    certificate: str, model: Path | None, given: Path | None, jwks: tuple[str, ...], as_json: bool
) -> None:
    """Verify CERTIFICATE: a file of `lipmodel certify`, or a signed certificate of the service.

    Every number in a file of `lipmodel certify` is proved in exact arithmetic, from the model and the input
    alone. Without --model only consistency is checked: that the radius follows from the stated bounds, but
    not that these are bounds. Since nothing is proved, the exit status is then 1.

    The signature of a signed certificate (a file, or the text itself as the argument) is checked against the
    keys of its issuer; with --model and --input every number is also recomputed. Without these the exit
    status is 0 for a valid signature: the statements rest on trust in the issuer.
    """
    from lipmodel.certificates.format import Certificate
    from lipmodel.data.load import load_inputs
    from lipmodel.verify.check import verify as run

    content = _content(certificate)
    inputs = load_inputs(given) if given else None
    if isinstance(content, str):
        _verify_signed(content, jwks, model, inputs, as_json=as_json)
        return
    verdict = run(Certificate.from_json(content), model, inputs)
    _print_verdict(
        verdict.checks, f"{verdict.verdict}: {verdict.meaning}", verdict.to_dict(), as_json=as_json
    )
    # Without the model nothing is proved, so the exit status must not read as a proof.
    sys.exit(common.NEGATIVE if verdict.reasons or model is None else 0)


def _content(certificate: str) -> bytes | str:
    """Return a proof certificate as bytes, a signed one as text; only the former starts with a brace."""
    from lipmodel.certificates.strict_json import MAX_BYTES

    path = Path(certificate)
    try:
        found = path.is_file()
    except (OSError, ValueError):  # too long for a file name, or contains NUL
        found = False
    if not found:
        if len(certificate) > MAX_NAME:
            return certificate
        raise click.UsageError(f"'{certificate}' is neither a file nor a signed certificate")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if content.lstrip()[:1] in (b"{", b""):
        return content
    return content.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")


def _verify_signed(
    token: str, jwks: tuple[str, ...], model: Path | None, inputs: Any, *, as_json: bool
) -> None:
    from lipmodel.errors import MissingExtraError, SignatureError
    from lipmodel.verify.consistency import Check

    try:
        from lipmodel.signed.check import check_answer
        from lipmodel.signed.jws import open_signed
        from lipmodel.signed.key_sets import fetch, merge, read_public
    except ModuleNotFoundError as error:
        raise MissingExtraError("verifying signatures", "verify") from error
    if not jwks:
        raise click.UsageError("a signed certificate requires --jwks, the keys of trusted issuers")
    keys = merge([read_public(fetch(place), place) for place in jwks])
    verdict, stated = "fails", None
    try:
        signed = open_signed(token, keys)
    except SignatureError as error:
        checks, meaning = [Check("signature", str(error))], "none of its statements can be trusted"
    else:
        checks = [Check("signature"), *check_answer(signed.answer, model, inputs)]
        stated, issuer = json.loads(signed.to_json()), escape(signed.issuer)
        if not all(check.passed for check in checks):
            meaning = f"signed by '{issuer}', but not every statement passes its check"
        elif model and inputs is not None:
            verdict, meaning = "holds", f"signed by '{issuer}', and every number was recomputed"
        else:
            verdict = "signed"
            meaning = f"signed by '{issuer}'; to recompute every number give --model and --input"
    report = {
        "verdict": verdict,
        "certificate": stated,
        "meaning": meaning,
        "checks": [{"name": c.name, "passed": c.passed, "reason": c.reason} for c in checks],
    }
    _print_verdict(checks, f"{verdict}: {meaning}", report, as_json=as_json)
    sys.exit(common.NEGATIVE if verdict == "fails" else 0)


def _print_verdict(checks: Any, verdict: str, report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        common.print_json(report)
        return
    for check in checks:
        mark = "[green]✓[/green]" if check.passed else "[red]✗[/red]"
        reason = f": {escape(check.reason)}" if check.reason else ""
        common.stdout.print(f"{mark} {check.name}{reason}", soft_wrap=True)
    common.stdout.print(verdict, soft_wrap=True)
