"""``lipmodel inspect``: proved Lipschitz bounds of a file, and its claims compared with them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.cli.common import EXISTING_FILE, NEGATIVE, bar, err, json_option, print_json, stdout
from lipmodel.display import rounded, rounded_up
from lipmodel.errors import ModelError
from lipmodel.norms import Norm

MAX_INPUTS_ATTACKED = 60


@click.command()
@click.argument("model", type=EXISTING_FILE)
@click.option("--tightness", help="Data, as for evaluate, on which radii are compared with attacks.")
@json_option
def inspect(model: Path, tightness: str | None, as_json: bool) -> None:
    """Show the operators of MODEL, its proved Lipschitz bounds, and whether these confirm its claims."""
    try:
        predictor = CertifiedPredictor(model)
    except ModelError as error:
        if not as_json:
            raise
        print_json({"status": "refused", "reason": str(error)})
        sys.exit(NEGATIVE)
    bounds = {norm: predictor.bounds(norm) for norm in Norm}
    claims = predictor.claims
    unproved = predictor.claim_proved is False
    reason = None
    if unproved:
        assert claims.norm is not None
        reason = (
            f"the file claims a Lipschitz constant of {claims.lipschitz!r} in {claims.norm.symbol}; "
            f"the proved bound is {bounds[claims.norm].bound_global!r}"
        )
    measured = None
    if tightness:
        from lipmodel.audit.tightness import measure_tightness
        from lipmodel.data.load import load_labelled

        inputs = load_labelled(tightness).inputs[:MAX_INPUTS_ATTACKED]
        with bar("attacking") as progress:
            measured = measure_tightness(predictor, inputs, progress=progress)
    if as_json:
        claim = {"norm": claims.norm, "lipschitz": claims.lipschitz, "proved": predictor.claim_proved}
        print_json(
            {
                "status": "unproved" if unproved else "proved",
                "reason": reason,
                "sha256": predictor.file.sha256,
                "folded_weights_sha256": predictor.file.folded_sha256,
                "ops": predictor.file.operators,
                "input_shape": list(predictor.file.graph.input_shape),
                "clipped_to": _clipped_to(predictor),
                "classes": list(predictor.class_names),
                "bounds": {
                    norm.value: {
                        "global": bound.bound_global,
                        "per_pair": bound.bound_per_pair.tolist(),
                        "layers": [vars(layer) for layer in bound.layers],
                    }
                    for norm, bound in bounds.items()
                },
                "claim": None if claims.lipschitz is None and claims.norm is None else claim,
                "unchecked_claims": list(claims.unchecked),
                "ignored_metadata": list(claims.ignored),
                **({} if measured is None else {"tightness": asdict(measured)}),
            }
        )
    else:
        _show_inspection(predictor, bounds, reason)
        if measured is not None:
            title = (
                f"Median of radius / nearest attack found, {measured.points} inputs, {measured.norm.symbol}"
            )
            table = Table("bounds", "radius / attack", "seconds per input", title=title, title_justify="left")
            table.add_row("Lipschitz", rounded(measured.lipschitz, 3), rounded(measured.lipschitz_seconds, 2))
            if measured.local is not None and measured.local_seconds is not None:
                local = rounded(measured.local, 3), rounded(measured.local_seconds, 2)
                table.add_row("local (--tighten)", *local)
            stdout.print(table)
            if measured.reason:
                stdout.print(f"no local bounds: {measured.reason}", markup=False)
    sys.exit(NEGATIVE if unproved else 0)


def _clipped_to(predictor: CertifiedPredictor) -> list[float | None] | None:
    """Return the least and greatest input that a Clip in front leaves; None without one, or for no limit."""
    if (box := predictor.box) is None:
        return None
    return [float(end) if np.isfinite(end) else None for end in (box.low.min(), box.high.max())]


def _show_inspection(predictor: CertifiedPredictor, bounds: dict[Norm, Any], reason: str | None) -> None:
    file = predictor.file
    stdout.print(f"sha256     {file.sha256}")
    stdout.print(f"input      {list(file.graph.input_shape)} per sample, {file.dtype.__name__}")
    stdout.print(f"classes    {', '.join(predictor.class_names)}", markup=False)
    if (ends := _clipped_to(predictor)) is not None:
        low, high = ("no limit" if end is None else f"{end:g}" for end in ends)
        stdout.print(f"box        the file clips every input to {low} … {high} first")
    if file.folded_sha256:
        stdout.print(f"computed   weights in the file, hence no portable radius; sha256 {file.folded_sha256}")
    stdout.print("operators  " + ", ".join(f"{op} × {count}" for op, count in file.operators.items()))
    headings = ("norm", "of any score", "of a difference, smallest", "largest", "of each layer")
    table = Table(*headings, title="Proved Lipschitz bounds", title_justify="left")
    for norm, bound in bounds.items():
        pairs = bound.bound_per_pair
        between = pairs[~np.eye(len(pairs), dtype=bool)]
        layers = " · ".join(rounded_up(layer.bound, 4) for layer in bound.layers)
        shown = (rounded_up(b, 9) for b in (bound.bound_global, between.min(), between.max()))
        table.add_row(norm.symbol, *shown, layers)
    stdout.print(table)
    layers = bounds[predictor.default_norm].layers
    loosest = max(layers, key=lambda layer: layer.unevenness, default=None)
    if loosest is not None:
        times = rounded(loosest.unevenness, 3)
        stdout.print(f"loosest    '{loosest.node}': its norm is {times} × its mean gain", markup=False)
    claims = predictor.claims
    if claims.lipschitz is not None and claims.norm is not None:
        verdict = "[red]not proved[/red]" if reason else "[green]proved[/green]"
        stdout.print(f"claim      {claims.lipschitz:g}-Lipschitz in {claims.norm.symbol}: {verdict}")
    else:
        stdout.print("claim      none in the file")
    if claims.unchecked:
        stdout.print(
            f"unchecked  {', '.join(claims.unchecked)}: claims of the file, including accuracies and radii"
        )
    for line in claims.ignored:
        stdout.print(f"ignored    {line}", markup=False)
    if reason:
        err.print(reason, style="red", markup=False)
