"""The report of an evaluation: JSON, Markdown, one HTML file, and the curve as SVG and PNG."""

from __future__ import annotations

from typing import Any

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.evaluate import Evaluation
from lipmodel.files import to_json
from lipmodel.report import page, plots


def evaluation_files(
    predictor: CertifiedPredictor, evaluation: Evaluation, *, model: str, data: str, units: str = ""
) -> dict[str, bytes]:
    """The files of the report, by name.

    Args:
        predictor: the classifier evaluated.
        evaluation: what it achieved.
        model: its name, and
        data: that of the data, for titles.
        units: of the inputs, for the axis of epsilon.
    """
    bounds = predictor.bounds(evaluation.norm)
    told: dict[str, Any] = {
        "model": model,
        "data": data,
        "sha256": predictor.file.sha256,
        "bound_global": bounds.bound_global,
        **evaluation.to_dict(),
    }

    def curve(axis: Any) -> None:
        plots.draw_accuracies(axis, evaluation, units)

    drawings = {_caption(evaluation): curve, **_others(evaluation, predictor.class_names)}
    values = {
        "told": told,
        "all_attacked": evaluation.attacked_samples == evaluation.samples,
        "claims": predictor.claims,
        "proved": predictor.claim_proved,
    }
    return {
        "evaluation.json": to_json(told),
        "evaluation.md": page.render("report", "evaluation.md", **values),
        "evaluation.html": page.render(
            "report", "evaluation.html", **values, figures=page.figures(drawings)
        ),
        "curve.svg": page.svg(curve),
        "curve.png": page.png(curve),
    }  # fmt: skip


def _caption(evaluation: Evaluation) -> str:
    caption = (
        "Blue: share of inputs that no change of size ε can turn into an error (proved). Dashed: "
        f"majority-class baseline ('{evaluation.majority_class}')."
    )
    if not evaluation.attacked_samples:
        return caption
    attacked = "Orange: share that withstood the attacks tried, of"
    if evaluation.attacked_samples < evaluation.samples:
        attacked += (
            f" a sample of {evaluation.attacked_samples} inputs, drawn at random by class. Dotted: the share "
            "certified of that sample."
        )
    else:
        attacked += " all inputs."
    return f"{caption} {attacked} For the inputs attacked the truth lies in the grey."


def _others(evaluation: Evaluation, classes: tuple[str, ...]) -> dict[str, page.Drawing]:
    return {
        "How many inputs have which radius. A radius of 0 means that nothing is certified.": lambda axis: (
            plots.draw_radius_histogram(axis, evaluation.right, evaluation.radii, evaluation.norm)
        ),
        "Rows are labels, columns answers.": lambda axis: plots.draw_confusion(
            axis, evaluation.labels, evaluation.answers, classes
        ),
    }
