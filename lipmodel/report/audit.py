"""Write the report of an audit: JSON, Markdown and one HTML file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lipmodel.audit.findings import AuditReport, Counterexample, Witness
from lipmodel.audit.observe import functionals
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.display import certified_radius, rounded, rounded_down, rounded_up
from lipmodel.files import to_json
from lipmodel.report import page, plots
from lipmodel.report.tables import audit_table, model_table, pair_name, pair_table

MAX_PAIRS = 20  # rows of the table of functionals
MAX_VALUES = 8  # coordinates shown of an input that is not an image
MIN_SIDE = 8  # of a square in which a row of numbers is drawn
FOUND_ON = {"data": "on the data", "box": "in the box", "ascent": "by ascent"}


def audit_files(
    predictor: CertifiedPredictor, report: AuditReport, *, model: str, data: str
) -> dict[str, bytes]:
    """Return the files of the report, by name.

    Args:
        predictor: the classifier audited.
        report: its audit.
        model: name of the model, for titles.
        data: name of the data or of the random points, for titles.
    """
    content = {"model": model, "data": data, **report.to_dict()}
    shape = predictor.file.graph.input_shape
    return {
        "audit.json": to_json(content),
        **page.render_both(
            "audit",
            template="audit.html",
            title=f"{model}: audit on {data}",
            lead=f"Gradients of {len(report.per_pair)} scores and differences of scores, and attacks on "
            f"certified radii, in {report.norm.symbol}. {content['note']}",
            summary=audit_table(report),
            wrong=bool(report.reasons),
            alerts=[*report.reasons, *report.warnings],
            figures=_figures(predictor, report),
            tables=[pair_table(report, MAX_PAIRS), model_table(predictor)],
            examples=[
                (
                    "Label changes within the certified radius",
                    "Each of them refutes a radius.",
                    [_counterexample(found, shape) for found in report.attack.inside],
                ),
                (
                    "Witnesses",
                    "Inputs where gradients come nearest to their bounds. From the first input to the second "
                    "the score changes by at least the slope times their distance, which any runtime can "
                    "check. audit.json has all coordinates.",
                    [_witness(witness, shape) for witness in report.witnesses],
                ),
            ],
        ),
    }


def _figures(predictor: CertifiedPredictor, report: AuditReport) -> dict[str, page.Drawing]:
    attack = report.attack
    pairs = [(1, 0) if (i, j) == (0, None) and len(report.per_pair) == 1 else (i, i if j is None else j)
             for i, j in functionals(predictor.file.graph).pairs]  # fmt: skip
    figures: dict[str, page.Drawing] = {
        "Gradient norms / bounds of all scores and differences, at points of the data and the box. A value "
        "right of the red line would refute a bound; the dotted line is the largest value found by "
        "any search.": lambda axis: plots.draw_gradient_norms(
            axis,
            report.histogram["edges"],
            report.histogram["counts"],
            max(pair.tightness for pair in report.per_pair),
        ),
        "Largest gradient norm found / bound: of a score on the diagonal, elsewhere of a difference of two. "
        "1 if the bound is exact.": lambda axis: plots.draw_pairs(
            axis, pairs, [pair.tightness for pair in report.per_pair], predictor.class_names
        ),
    }
    if attack.found:
        figures[
            "Inputs attacked: certified radius (proved) and distance of the nearest adversarial input found. "
            "A point below the red line would refute a radius; on the line a radius is exact."
        ] = lambda axis: plots.draw_radii_and_distances(
            axis,
            np.array(attack.certified_radius),
            np.array([math.inf if d is None else d for d in attack.observed_distance]),
            report.norm,
        )
    return figures


def _counterexample(found: Counterexample, shape: tuple[int, ...]) -> tuple[Any, list[str]]:
    return [_shown(found.input, shape), _shown(found.adversarial, shape)], [
        f"{found.label} → {found.adversarial_label}",
        f"distance {rounded_up(found.observed_distance)}",
        f"certified radius {certified_radius(found.certified_radius)}",
    ]


def _witness(witness: Witness, shape: tuple[int, ...]) -> tuple[Any, list[str]]:
    return [_shown(witness.input, shape), _shown(witness.second_input, shape)], [
        f"{pair_name(witness.classes)}, {FOUND_ON[witness.found_on]}",
        f"gradient {rounded(witness.observed)}, slope {rounded_down(witness.observed_slope)}",
        f"bound {rounded_up(witness.bound)}",
    ]


def _shown(numbers: tuple[float, ...], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return an input as an image if it is one, or if it fills a square, else its first coordinates."""
    side = math.isqrt(len(numbers))
    if len(shape) == 1 and side**2 == len(numbers) and side >= MIN_SIDE:  # most networks take images as rows
        shape = (side, side)
    image = page.image_url(numbers, shape)
    return {"image": image, "values": numbers[:MAX_VALUES], "more": len(numbers) > MAX_VALUES}
