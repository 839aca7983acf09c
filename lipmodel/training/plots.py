"""The plots of a training: learning curves, certified accuracy, and decision regions of 2-d inputs."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FuncFormatter, PercentFormatter

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.radius import Radii
from lipmodel.dataset import Dataset
from lipmodel.norms import Norm
from lipmodel.training.loop import Epoch

BLUE, ORANGE, GREY = "#2166ac", "#b35806", "#666666"
LABEL_COLOURS = ("#2d004b", "#7f3b08")  # the ends of the field's colours
NORM_SYMBOL = {Norm.ONE: "$\\ell_1$", Norm.TWO: "$\\ell_2$", Norm.INF: "$\\ell_\\infty$"}

GRID = 201  # points along each axis of a field
BINS = 40  # of a histogram
MOST_WRITTEN = 20  # classes whose counts are written into a confusion matrix


def new_figure(panels: int, title: str, height: float = 4.6) -> tuple[Figure, list[Any]]:
    """A row of panels under one title; no global state of matplotlib is touched."""
    figure = Figure(figsize=(5.2 * panels, height), layout="constrained", dpi=120)
    figure.suptitle(title, fontsize=13)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def to_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def pixels_to_png(pixels: Any) -> bytes:
    """An image, (h, w) or (h, w, 3) in [0, 1], as the bytes of a PNG file, pixel for pixel."""
    buffer = io.BytesIO()
    imsave(buffer, pixels, cmap="gray", vmin=0.0, vmax=1.0, format="png")
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """The figure as the bytes of an SVG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "lipcert"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def plot_training(
    title: str,
    predictor: CertifiedPredictor,
    radii: Radii,
    norm: Norm,
    history: list[Epoch],
    held_out: Dataset,
) -> bytes:
    """Learning curves, certified accuracy and, of 2-d inputs, the radius as a field: a PNG file's bytes."""
    flat = held_out.inputs.shape[1] == 2
    figure, axes = new_figure(3 if flat else 2, title)
    draw_learning_curves(axes[0], history)
    draw_certified_accuracy(axes[1], radii, norm, held_out)
    if flat:
        draw_radius_field(axes[2], predictor, norm, held_out)
        axes[2].set_title("Decision regions, shaded by certified radius")
    return to_png(figure)


def draw_radius_field(
    axis: Any, predictor: CertifiedPredictor, norm: Norm, data: Dataset, limit: float | None = None
) -> None:
    """The certified radius at each point of the plane, signed by the label, with the data on it.

    White is where nothing is certified; the black line is the decision frontier. Two classes. Colours
    end at the radius ``limit``, by default the largest there is.
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
    """Loss and accuracies by epoch; of certified accuracy torch's estimate."""
    epochs = [epoch.number for epoch in history]
    marker = "o" if len(epochs) < 20 else None
    (loss,) = axis.plot(
        epochs, [e.loss for e in history], color=GREY, marker=marker, ms=3, ls="--", label="loss"
    )
    axis.set(xlabel="epoch", ylabel="training loss", title="Learning curves")
    axis.set_ylim(bottom=0)
    right = axis.twinx()
    (on_train,) = right.plot(
        epochs,
        [e.train_accuracy for e in history],
        color=ORANGE,
        marker=marker,
        ms=3,
        label="accuracy, training",
    )
    (on_held_out,) = right.plot(
        epochs,
        [e.held_out_accuracy for e in history],
        color=BLUE,
        marker=marker,
        ms=3,
        label="accuracy, held out",
    )
    (estimate,) = right.plot(
        epochs,
        [e.estimated_certified_accuracy for e in history],
        color=BLUE,
        ls=":",
        label="certified, held out (estimate)",
    )
    right.set_ylabel("accuracy")
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axis.legend(
        handles=[loss, on_train, on_held_out, estimate],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=2,
        fontsize=8.5,
        frameon=False,
    )


def draw_certified_accuracy(axis: Any, radii: Radii, norm: Norm, data: Dataset) -> None:
    """Share of the data answered right with a radius of at least ε, against ε."""
    reached = np.sort(radii.certified_radius[radii.label == data.labels])
    share = np.arange(len(reached), 0, -1) / len(data.labels)
    axis.step([0.0, *reached], [len(reached) / len(data.labels), *share], where="pre", color=BLUE)
    axis.set(
        xlabel=f"ε, in {NORM_SYMBOL[norm]} ({data.units})",
        ylabel="share right, and certified at ε",
        title="Certified accuracy on held-out data",
    )
    axis.set_xlim(left=0)
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.grid(alpha=0.3)


def draw_radius_histogram(axis: Any, radii: Radii, norm: Norm, data: Dataset) -> None:
    """How many inputs have which certified radius, right and wrong answers apart."""
    right = radii.label == data.labels
    parts = [radii.certified_radius[right], radii.certified_radius[~right]]
    labels = [f"right ({right.sum()})", f"wrong ({(~right).sum()})"]
    bins = np.linspace(0.0, radii.certified_radius.max() or 1.0, BINS + 1)
    axis.hist(parts, bins=bins, stacked=True, color=[BLUE, ORANGE], label=labels)
    axis.set(
        xlabel=f"certified radius in {NORM_SYMBOL[norm]}", ylabel="inputs", title="Radii of held-out inputs"
    )
    axis.set_xlim(left=0)
    axis.legend(frameon=False)


def draw_confusion(axis: Any, radii: Radii, data: Dataset) -> None:
    """Counts of each class (rows) by the answer given (columns); the shade is the share of the row."""
    count = len(data.classes)
    table = np.zeros((count, count), dtype=np.int64)
    np.add.at(table, (data.labels, radii.label), 1)
    share = table / table.sum(axis=1, keepdims=True).clip(min=1)
    axis.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    if count <= MOST_WRITTEN:
        for row, column in np.argwhere(table):
            colour = "white" if share[row, column] > 0.5 else "black"
            axis.text(
                column, row, str(table[row, column]), ha="center", va="center", color=colour, fontsize=8
            )
        axis.set_xticks(range(count), data.classes, rotation=90)
        axis.set_yticks(range(count), data.classes)
    axis.set(xlabel="answer", ylabel="label", title="Confusion on held-out data")
