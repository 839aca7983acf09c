"""The report of a training: one self-contained HTML file."""

from __future__ import annotations

from typing import Any

import numpy as np

from lipmodel.data.dataset import Dataset
from lipmodel.display import certified_radius, rounded_up
from lipmodel.evaluate import Evaluation
from lipmodel.report import page, plots
from lipmodel.report.evaluation import prediction_figures
from lipmodel.report.tables import Row, Table, accuracy_table, model_table
from lipmodel.training.plots import draw_learning_curves, draw_radius_field
from lipmodel.training.trained import Trained

EXAMPLES = 6  # inputs shown with the smallest radius, and with the largest
MAX_VALUES = 8  # coordinates shown of an input that is not an image


def report(trained: Trained) -> bytes:
    """Return the report of a training as the bytes of an HTML file."""
    recipe, data, evaluation = trained.recipe, trained.held_out, trained.evaluation
    drawings: dict[str, page.Drawing] = {
        "Loss and accuracy by epoch. The dotted line is torch's estimate at the largest epsilon; "
        "certified accuracy is otherwise measured from the exported file.": lambda axis: draw_learning_curves(
            axis, trained.history
        ),
        "Certified accuracy: share of held-out inputs that no change of size ε can turn into an error; "
        "dashed, the majority-class baseline.": lambda axis: plots.draw_accuracies(
            axis, evaluation, data.units
        ),
        **prediction_figures(evaluation, data.classes),
    }
    if data.inputs.shape[1] == 2:
        drawings["Decision regions, shaded by certified radius."] = lambda axis: draw_radius_field(
            axis, trained.predictor, recipe.norm, data
        )
    record, abstentions = trained.record(), (evaluation.radii == 0).sum()
    bound = rounded_up(record["model"]["bound_global"], 9)
    facts: list[Row] = [
        ("size of the file", f"{len(trained.content)} bytes"),
        ("Lipschitz bound of a score, proved", f"{bound}; requested: {recipe.lipschitz:g}"),
        ("inputs with nothing certified", f"{abstentions} of {len(data.labels)}"),
        ("largest difference to torch", f"{trained.largest_difference:.2g} between scores"),
        ("training", f"{len(trained.history)} epochs in {record['seconds']:.1f} s; seed {recipe.seed}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
    ]
    order = np.argsort(evaluation.radii, kind="stable")
    return page.render(
        "training",
        "report.html",
        title=f"{recipe.name}: training report",
        lead=f"{recipe.lipschitz:g}-Lipschitz in {recipe.norm.symbol}; {len(trained.train.labels)} training "
        f"inputs. Figures are of the exported file on {len(data.labels)} held-out inputs.",
        summary=accuracy_table(evaluation),
        wrong=False,
        alerts=evaluation.warnings,
        figures=page.encode_figures(drawings),
        examples=[
            ("smallest", _examples(data, evaluation, order[:EXAMPLES])),
            ("largest", _examples(data, evaluation, order[::-1][:EXAMPLES])),
        ],
        columns=data.inputs.shape[1],
        tables=[
            Table("Data", ("", ""), list(trained.summary.items())),
            model_table(trained.predictor, facts),
        ],
        toml=recipe.to_toml(),
        norm=recipe.norm.symbol,
    )


def _examples(data: Dataset, evaluation: Evaluation, rows: Any) -> list[dict[str, Any]]:
    """Return the data of these rows for the template, in order."""
    typical, spread = data.inputs.mean(axis=0), data.inputs.std(axis=0)
    names = data.columns or tuple(f"x{i + 1}" for i in range(data.inputs.shape[1]))
    examples = []
    for row in rows:
        unusual = np.argsort(-np.abs(data.inputs[row] - typical) / np.maximum(spread, 1e-12), kind="stable")
        examples.append(
            {
                "row": int(row),
                "label": data.classes[data.labels[row]],
                "prediction": data.classes[evaluation.predictions[row]],
                "correct": bool(evaluation.correct[row]),
                "radius": certified_radius(float(evaluation.radii[row]), 4),
                "image": page.image_url(data.inputs[row], data.input_shape),
                "values": [(names[i], float(data.inputs[row, i])) for i in np.sort(unusual[:MAX_VALUES])],
            }
        )
    return examples
