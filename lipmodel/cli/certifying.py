"""``lipmodel certify`` and ``verify``: radii of inputs, and certificates checked again."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
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
    bar,
    err,
    json_option,
    norm_option,
    print_json,
    stdout,
)
from lipmodel.display import certified_radius, rounded
from lipmodel.norms import Norm

MAX_ROWS_SHOWN = 20
LONGEST_NAME = 255
"""Of a file; what is longer can only be a signed certificate."""


@click.command()
@click.argument("model", type=EXISTING_FILE)
@click.option(
    "--inputs", required=True,
    help="Rows to certify: a .npy, .csv or .parquet. With --out .npy and .parquet files of any size, by "
    "path, pattern ('dir/*.parquet') or URL (s3://…).",
)  # fmt: skip
@click.option(
    "--out",
    help="Folder or URL for the results instead: parquet files, one row for each row, in parts that stay if "
    "it is interrupted; the same command goes on from there.",
)
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="With --out: all cores of this machine, or a cluster of Ray (RAY_ADDRESS).",
)  # fmt: skip
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
    model: Path,
    inputs: str,
    out: str | None,
    engine: str,
    certificates: Path | None,
    tighten: bool,
    norm: Norm | None,
    as_json: bool,
) -> None:
    """Predict each row of a file with the radius inside which no change alters the answer."""
    from lipmodel.data.load import load_inputs

    predictor = CertifiedPredictor(model)
    if out is not None:
        if certificates is not None:
            raise click.UsageError("--certificates are written for one file at a time, without --out")
        _certify_files(predictor, inputs, out, norm, tighten=tighten, engine=engine, as_json=as_json)
        return
    if engine != "local":
        raise click.UsageError(f"--engine {engine} needs --out, a folder for the results")
    rows_given = load_inputs(Path(inputs))
    result = predictor.predict(rows_given, norm, tighten=tighten)
    if certificates is not None:
        _write_certificates(predictor, rows_given, norm, certificates, mix=tighten)
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
            predictor.portable_radii(rows_given, norm),
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
        print_json(
            {
                "sha256": predictor.file.sha256,
                "norm": result.norm.value,
                "execution": result.execution.__name__,
                "predictions": rows,
            }
        )
        return
    table = Table(title=f"{len(rows)} inputs, radii in {result.norm.symbol}", title_justify="left")
    for heading in ("row", "label", "certified radius", "portable radius", "margin", "runner-up"):
        table.add_column(heading)
    for index, row in enumerate(rows[:MAX_ROWS_SHOWN]):
        shown = [certified_radius(row[key]) for key in ("certified_radius", "radius_float32_portable")]
        table.add_row(str(index), str(row["label"]), *shown, rounded(row["margin"]), str(row["runner_up"]))
    stdout.print(table)
    if len(rows) > MAX_ROWS_SHOWN:
        stdout.print(f"… and {len(rows) - MAX_ROWS_SHOWN} more; --json prints all of them")


def _certify_files(
    predictor: CertifiedPredictor,
    inputs: str,
    out: str,
    norm: Norm | None,
    *,
    tighten: bool,
    engine: str,
    as_json: bool,
) -> None:
    from lipmodel.bulk.run import certify_files

    with bar("certifying") as progress:
        account = certify_files(predictor, inputs, out, norm, progress, tighten=tighten, engine=engine)
    if as_json:
        print_json(asdict(account))
        return
    before = f", of which {account.found} had them before" if account.found else ""
    stdout.print(
        f"{account.rows} rows have their results in {account.partitions} files in {escape(out)}{before}",
        soft_wrap=True,
    )


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
@click.argument("certificate")
@click.option("--model", type=EXISTING_FILE, help="The ONNX file that it speaks of.")
@click.option("--input", "given", type=EXISTING_FILE, help="The input that was sent, as one row.")
@click.option(
    "--jwks",
    multiple=True,
    metavar="FILE_OR_URL",
    help="Keys of issuers that are trusted, for a signed certificate: a JSON Web Key Set. May be repeated.",
)
@json_option
def verify(
    certificate: str, model: Path | None, given: Path | None, jwks: tuple[str, ...], as_json: bool
) -> None:
    """Check CERTIFICATE again: a file of `lipmodel certify`, or a signed one as the service gives it.

    One of `lipmodel certify` is proved in exact arithmetic, every number, from the model and its input alone.
    Without --model only its consistency can be checked: whether the radius follows from the bounds
    that it states, not whether these are bounds; the exit status is then 1, since nothing is proved.

    A signed one, in a file or itself the argument, is checked against the keys of its issuer; given --model
    and --input, every number is computed again. Without these its word is that of the key: exit status 0.
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
    # Without the model nothing is proved: whoever tests the exit status must not take it for proof.
    sys.exit(NEGATIVE if verdict.reasons or model is None else 0)


def _content(certificate: str) -> bytes | str:
    """A proof certificate as bytes, a signed one as text; only the first starts with a brace."""
    from lipmodel.certificates.strict_json import MAX_BYTES

    path = Path(certificate)
    if not _is_file(path):
        if len(certificate) > LONGEST_NAME:
            return certificate
        raise click.UsageError(f"there is no file '{certificate}', nor is this a signed certificate")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if content.lstrip()[:1] in (b"{", b""):
        return content
    return content.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


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
        raise MissingExtraError("checking signatures", "verify") from error
    if not jwks:
        raise click.UsageError("a signed certificate needs --jwks, the keys of issuers that are trusted")
    keys = merge([read_public(fetch(place), place) for place in jwks])
    told: dict[str, Any] = {"verdict": "fails", "certificate": None}
    try:
        signed = open_signed(token, keys)
    except SignatureError as error:
        checks, meaning = [Check("signature", str(error))], "nothing that it states is to be trusted"
    else:
        checks = [Check("signature"), *check_answer(signed.answer, model, inputs)]
        told["certificate"] = json.loads(signed.to_json())
        meaning = f"not every statement is what '{escape(signed.issuer)}' should have signed"
        if all(check.passed for check in checks):
            told["verdict"] = "holds" if model and inputs is not None else "signed"
            more = (
                "every number was computed again"
                if told["verdict"] == "holds"
                else ("with --model and --input every number is computed again")
            )
            meaning = f"'{escape(signed.issuer)}' signed this; {more}"
    told |= {
        "meaning": meaning,
        "checks": [{"name": c.name, "passed": c.passed, "reason": c.reason} for c in checks],
    }
    _print_verdict(checks, f"{told['verdict']}: {meaning}", told, as_json=as_json)
    sys.exit(NEGATIVE if told["verdict"] == "fails" else 0)


def _print_verdict(checks: Any, verdict: str, told: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    for check in checks:
        mark = "[green]✓[/green]" if check.passed else "[red]✗[/red]"
        reason = f": {escape(check.reason)}" if check.reason else ""
        stdout.print(f"{mark} {check.name}{reason}", soft_wrap=True)
    stdout.print(verdict, soft_wrap=True)
