"""Write the report of an evaluation: JSON, Markdown, one HTML file, and the curve as SVG and PNG."""

from __future__ import annotations

from typing import Any

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.display import rounded_down, rounded_up
from lipmodel.evaluate import Evaluation
from lipmodel.files import to_json
from lipmodel.report import page, plots
from lipmodel.report.tables import accuracy_table, attack_tables, class_table, model_table


def evaluation_files(
    predictor: CertifiedPredictor, evaluation: Evaluation, *, model: str, data: str, units: str = ""
) -> dict[str, bytes]:
    """Return the files of the report, by name.

    Args:
        predictor: the classifier evaluated.
        evaluation: its evaluation.
        model: name of the model, for titles.
        data: name of the data, for titles.
        units: units of the inputs, for the axis of epsilon.
    """
    bound = predictor.bounds(evaluation.threat).bound_global
    identity = {"model": model, "data": data, "sha256": predictor.file.sha256, "bound_global": bound}
    symbol, tightened = str(evaluation.threat), ", tightened" * evaluation.tightened
    levels = evaluation.certified_radius_quantiles.items()
    quantiles = ", ".join(f"{float(q):.0%}: {rounded_down(r, 4)}" for q, r in levels)
    model_rows = [
        ("Lipschitz bound of a score, proved", f"{rounded_up(bound, 9)} in {symbol}"),
        ("radii of correct predictions", quantiles),
    ]

    def curve(axis: Any) -> None:
        plots.draw_accuracies(axis, evaluation, units)

    return {
        "evaluation.json": to_json(identity | evaluation.to_dict()),
        **page.render_both(
            "evaluation",
            files=("curve.svg",),
            title=f"{model}: evaluation on {data}",
            lead=f"{evaluation.samples} inputs of {data}; radii in {symbol}{tightened}. Intervals have 95% "
            "confidence.",
            summary=accuracy_table(evaluation),
            alerts=evaluation.warnings,
            figures={_caption(evaluation): curve, **prediction_figures(evaluation, predictor.class_names)},
            tables=[*attack_tables(evaluation), class_table(evaluation), model_table(predictor, model_rows)],
        ),
        "curve.svg": plots.to_svg(page.figure(curve)),
        "curve.png": plots.to_png(page.figure(curve)),
    }


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
            f" a sample of {evaluation.attacked_samples} inputs, stratified by class. Dotted: certified "
            "accuracy of the sample."
        )
    else:
        attacked += " all inputs."
    return f"{caption} {attacked} The true robust accuracy of the inputs attacked lies in the grey area."


def prediction_figures(evaluation: Evaluation, classes: tuple[str, ...]) -> dict[str, page.Drawing]:
    """Return the histogram of radii and the confusion matrix, by caption."""
    return {
        "Number of inputs by certified radius. A radius of 0 certifies nothing.": lambda axis: (
            plots.draw_radius_histogram(axis, evaluation.correct, evaluation.radii, evaluation.norm)
        ),
        "Rows are labels, columns predictions.": lambda axis: plots.draw_confusion(
            axis, evaluation.labels, evaluation.predictions, classes
        ),
    }
