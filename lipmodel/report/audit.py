"""The report of an audit: JSON, Markdown and one HTML file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lipmodel.audit.findings import AuditReport
from lipmodel.audit.observe import functionals
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.display import rounded_down
from lipmodel.files import to_json
from lipmodel.report import page, plots

MOST_PAIRS = 20  # rows of the table of functionals
MOST_VALUES = 8  # coordinates written of an input that is no image
LEAST_SIDE = 8  # of a square that a row of numbers is drawn as


def audit_files(
    predictor: CertifiedPredictor, report: AuditReport, *, model: str, data: str
) -> dict[str, bytes]:
    """The files of the report, by name.

    Args:
        predictor: the classifier audited.
        report: what was found.
        model: its name, and
        data: that of the data, or of what was looked at instead, for titles.
    """
    told: dict[str, Any] = {"model": model, "data": data, **report.to_dict()}
    values = {
        "told": told,
        "claims": predictor.claims,
        "proved": predictor.claim_proved,
        "slope": rounded_down(report.observed_slope, 9),
        "outside": report.attack.reached_outside,
        "pairs": sorted(told["per_pair"], key=lambda pair: -pair["tightness"])[:MOST_PAIRS],
    }
    shape = predictor.file.graph.input_shape
    drawings = _drawings(predictor, report)
    return {
        "audit.json": to_json(told),
        "audit.md": page.render("report", "audit.md", **values),
        "audit.html": page.render(
            "report",
            "audit.html",
            **values,
            figures=page.figures(drawings),
            witnesses=[
                (witness, [_shown(witness[name], shape) for name in ("input", "second_input")])
                for witness in told["witnesses"]
            ],
            inside=[
                (found, [_shown(found[name], shape) for name in ("input", "adversarial")])
                for found in told["attack"]["inside"]
            ],
        ),
    }


def _drawings(predictor: CertifiedPredictor, report: AuditReport) -> dict[str, page.Drawing]:
    attack = report.attack
    pairs = [(1, 0) if (i, j) == (0, None) and len(report.per_pair) == 1 else (i, i if j is None else j)
             for i, j in functionals(predictor.file.graph).pairs]  # fmt: skip
    drawings: dict[str, page.Drawing] = {
        "Gradient norms over their bounds, at the points of the data and the box, of all scores and "
        "differences. To the right of the red line a bound would be refuted; the dotted line is the "
        "largest found by any search.": lambda axis: plots.draw_gradient_norms(
            axis,
            report.histogram["edges"],
            report.histogram["counts"],
            max(pair.tightness for pair in report.per_pair),
        ),
        "Largest gradient norm found over its bound: of a score on the diagonal, elsewhere of the "
        "difference of two. 1 where the bound is exact.": lambda axis: plots.draw_pairs(
            axis, pairs, [pair.tightness for pair in report.per_pair], predictor.class_names
        ),
    }
    if attack.found:
        drawings[
            "Each input attacked: how far nothing can change its label (proved), and the nearest change "
            "found. Below the red line a radius would be refuted; on it a radius is exact."
        ] = lambda axis: plots.draw_radii_and_distances(
            axis,
            np.array(attack.certified_radius),
            np.array([math.inf if d is None else d for d in attack.observed_distance]),
            report.norm,
        )
    return drawings


def _shown(numbers: list[float], shape: tuple[int, ...]) -> dict[str, Any]:
    """An input as a picture, where it is one, and else by its first coordinates."""
    pixels = plots.as_image(np.array(numbers), _square(shape))
    image = None if pixels is None else page.data_url("image/png", plots.pixels_to_png(pixels))
    return {"image": image, "values": numbers[:MOST_VALUES], "more": len(numbers) > MOST_VALUES}


def _square(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a row of numbers the square that it fills, if any: most networks take images as rows."""
    side = math.isqrt(math.prod(shape))
    return (side, side) if len(shape) == 1 and side**2 == shape[0] and side >= LEAST_SIDE else shape
