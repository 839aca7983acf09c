"""Plots of a training: learning curves, and decision regions of 2-d inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.dataset import Dataset
from lipmodel.norms import Norm
from lipmodel.report.plots import BLUE, GREY, NORM_SYMBOL, ORANGE
from lipmodel.training.loop import Epoch

LABEL_COLOURS = ("#2d004b", "#7f3b08")  # the ends of the radius field's colour map

GRID = 201  # points along each axis of the radius field


def draw_radius_field(
    axis: Any, predictor: CertifiedPredictor, norm: Norm, data: Dataset, limit: float | None = None
) -> None:
    """Draw the certified radius at each point of the plane, signed by the label, and the data; two classes.

    Nothing is certified in white regions; the black line is the decision boundary. The colour map ends at the
    radius ``limit``, by default the largest radius.
    """
    low, high = data.inputs.min(axis=0) - 0.35, data.inputs.max(axis=0) + 0.35
    x, y = (np.linspace(low[k], high[k], GRID) for k in (0, 1))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    radii = predictor.predict(points, norm).radii
    signed = np.where(radii.label == 1, radii.certified_radius, -radii.certified_radius).reshape(GRID, GRID)
    limit = limit or float(np.abs(signed).max()) or 1.0
    field = axis.pcolormesh(
        x, y, signed, cmap="PuOr_r", vmin=-limit, vmax=limit, shading="gouraud", rasterized=True
    )
    axis.contour(x, y, signed, levels=[0.0], colors="black", linewidths=1.6)
    for label, colour in enumerate(LABEL_COLOURS):
        chosen = data.inputs[data.labels == label]
        axis.scatter(
            *chosen.T, s=7, c=colour, linewidths=0.3, edgecolors="white",
            label=data.classes[label],
        )  # fmt: skip
    axis.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    axis.set_anchor("N")
    bar = axis.figure.colorbar(field, ax=axis, fraction=0.03, pad=0.02)
    bar.set_label(f"certified radius in {NORM_SYMBOL[norm]}: {data.classes[0]} | {data.classes[1]}")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):g}"))


def draw_learning_curves(axis: Any, history: list[Epoch]) -> None:
    """Draw loss and accuracies by epoch, with torch's estimate of certified accuracy."""
    epochs = [epoch.number for epoch in history]
    marker = "o" if len(epochs) < 20 else None
    (loss,) = axis.plot(
        epochs, [e.loss for e in history], color=GREY, marker=marker, ms=3, ls="--", label="loss"
    )
    axis.set(xlabel="epoch", ylabel="training loss", title="Learning curves")
    axis.set_ylim(bottom=0)
    right = axis.twinx()
    curves: list[tuple[str, str, dict[str, Any]]] = [
        ("train_accuracy", "accuracy, training", {"color": ORANGE, "marker": marker, "ms": 3}),
        ("held_out_accuracy", "accuracy, held out", {"color": BLUE, "marker": marker, "ms": 3}),
        ("estimated_certified_accuracy", "certified, held out (estimate)", {"color": BLUE, "ls": ":"}),
    ]
    lines = [
        right.plot(epochs, [getattr(e, field) for e in history], label=label, **style)[0]
        for field, label, style in curves
    ]
    right.set_ylabel("accuracy")
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axis.legend(
        handles=[loss, *lines],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=2,
        fontsize=8.5,
        frameon=False,
    )
