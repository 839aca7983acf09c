"""Draw the plots of evaluations and audits, without global state of matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import PercentFormatter

from lipmodel.display import rounded_down
from lipmodel.evaluate import Evaluation
from lipmodel.norms import Array, Norm

BLUE, ORANGE, RED, GREY = "#2166ac", "#b35806", "#c0182b", "#666666"
NORM_SYMBOL = {Norm.ONE: "$\\ell_1$", Norm.TWO: "$\\ell_2$", Norm.INF: "$\\ell_\\infty$"}

BINS = 40  # of a histogram
MAX_WRITTEN = 20  # classes up to which numbers are written into a matrix
MAX_NAME = 40  # characters of a class name at an axis


def one_line(text: str) -> str:
    """Return the text with spaces for unprintable characters, such as control characters, invalid in XML."""
    return "".join(c if c.isprintable() else " " for c in text)


def new_figure(panels: int, title: str, height: float = 4.6) -> tuple[Figure, list[Any]]:
    """Return a figure with a row of panels under one title, and the panels."""
    figure = Figure(figsize=(5.2 * panels, height), layout="constrained", dpi=120)
    figure.suptitle(title, fontsize=13)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def to_png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def pixels_to_png(pixels: Any) -> bytes:
    """Return an image, (h, w) or (h, w, 3) in [0, 1], as a PNG file of the same size."""
    buffer = io.BytesIO()
    imsave(buffer, pixels, cmap="gray", vmin=0.0, vmax=1.0, format="png")
    return buffer.getvalue()


def as_image(inputs: Array, shape: tuple[int, ...]) -> Array | None:
    """Return an input as (h, w) or (h, w, 3) pixels in [0, 1]; None if its shape is not that of an image."""
    pixels = np.asarray(inputs, dtype=np.float64).reshape(shape)
    if len(shape) == 3 and shape[0] in (1, 3):  # channels first
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        return None
    low, high = pixels.min(), pixels.max()
    return pixels if low >= 0.0 and high <= 1.0 else (pixels - low) / (high - low or 1.0)


def to_svg(figure: Figure) -> bytes:
    """Return the figure as an SVG file; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "lipcert"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def draw_accuracies(axis: Any, evaluation: Evaluation, units: str = "") -> None:
    """Draw certified accuracy from below, accuracy under attack from above, and the majority-class baseline.

    The numbers are those of ``Evaluation.to_dict()``, which the service's page draws as well. Between two
    values of ε, certified accuracy is at least its value at the larger, and accuracy under attack at most its
    value at the smaller; the steps follow these inequalities. The area between the curves refers to the
    inputs attacked.

    Args:
        axis: axes to draw on.
        evaluation: the evaluation.
        units: units of the inputs, for the label.
    """
    sample, samples, units = evaluation.attacked_sample, evaluation.samples, f" ({units})" if units else ""
    scaled = evaluation.threat.scale is not None
    epsilon, certified = (evaluation.curve[name] for name in ("epsilon", "certified_accuracy"))
    end = epsilon[-1] if sample is None else sample.curve["epsilon"][-1]
    beyond = end > epsilon[-1]  # nothing is certified there
    axis.step(
        [*epsilon, end] if beyond else epsilon,
        [*certified, 0.0] if beyond else certified,
        where="pre", color=BLUE, label=f"certified: at least this much (all {samples})",
    )  # fmt: skip
    if sample is not None:
        grid, low, high = (
            np.array(sample.curve[n]) for n in ("epsilon", "certified_accuracy", "attacked_accuracy")
        )
        of = f"the {sample.samples} attacked" if sample.samples < samples else f"all {samples}"
        if sample.samples < samples:
            axis.step(grid, low, where="pre", color=BLUE, ls=":", label=f"certified, of {of}")
        axis.step(grid, high, where="post", color=ORANGE, label=f"under attack: at most this much (of {of})")
        ends = np.repeat(grid, 2)[1:-1]
        axis.fill_between(ends, np.repeat(low[1:], 2), np.repeat(high[:-1], 2), color=GREY, alpha=0.15, lw=0)
    axis.axhline(evaluation.majority_share, color=GREY, ls="--", lw=1, label="majority-class baseline")
    axis.set(
        xlabel=f"ε, in {NORM_SYMBOL[evaluation.norm]}" + (" (units of the scale)" if scaled else units),
        ylabel="accuracy at ε",
        title="Certified accuracy",
        xlim=(0.0, end or 1.0),
        ylim=(0.0, 1.02),
    )
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8.5, framealpha=0.8, edgecolor="none", loc="upper right")


def draw_radius_histogram(axis: Any, correct: Any, radii: Any, norm: Norm) -> None:
    """Draw a histogram of certified radii, of correct and wrong predictions."""
    parts = [radii[correct], radii[~correct]]
    labels = [f"correct ({correct.sum()})", f"wrong ({(~correct).sum()})"]
    bins = np.linspace(0.0, radii.max() or 1.0, BINS + 1)
    axis.hist(parts, bins=bins, stacked=True, color=[BLUE, ORANGE], label=labels)
    axis.set(xlabel=f"certified radius in {NORM_SYMBOL[norm]}", ylabel="inputs", title="Certified radii")
    axis.set_xlim(left=0)
    axis.legend(frameon=False)


def draw_confusion(axis: Any, labels: Any, predicted: Any, classes: Sequence[str]) -> None:
    """Draw counts of inputs by label (rows) and prediction (columns), shaded by share of the row."""
    count = len(classes)
    table = np.zeros((count, count), dtype=np.int64)
    np.add.at(table, (labels, predicted), 1)
    share = table / table.sum(axis=1, keepdims=True).clip(min=1)
    axis.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    if count <= MAX_WRITTEN:
        for row, column in np.argwhere(table):
            colour = "white" if share[row, column] > 0.5 else "black"
            axis.text(
                column, row, str(table[row, column]), ha="center", va="center", color=colour, fontsize=8
            )
        _name_classes(axis, classes)
    axis.set(xlabel="prediction", ylabel="label", title="Confusion matrix")


def draw_gradient_norms(axis: Any, edges: Sequence[float], counts: Sequence[float], largest: float) -> None:
    """Draw a histogram of gradient norm / bound, with the bound and the largest value found."""
    axis.stairs(counts, edges, fill=True, color=BLUE)
    axis.axvline(1.0, color=RED, label="bound")
    axis.axvline(largest, color=GREY, ls=":", label=f"largest found: {largest:.4f}")
    axis.set(xlabel="gradient norm / bound", ylabel="points × functionals", title="Gradients observed")
    axis.set_xlim(0.0, max(1.05, 1.05 * largest))
    axis.set_yscale("log")  # one point above the bound must be visible among a million
    axis.set_ylim(bottom=0.5)
    axis.legend(edgecolor="none", loc="upper left")


def draw_pairs(axis: Any, pairs: Sequence[tuple[int, int]], values: Sequence[float], classes: Any) -> None:
    """Draw a number in [0, 1] for each pair of classes, and for single classes on the diagonal."""
    count = len(classes)
    table = np.full((count, count), np.nan)
    for (i, j), value in zip(pairs, values, strict=True):
        table[i, j] = table[j, i] = value
    shades = axis.imshow(table, cmap="Blues", vmin=0.0, vmax=max(1.0, *values))
    axis.figure.colorbar(shades, ax=axis, shrink=0.8)
    if count <= MAX_WRITTEN:
        for row, column in np.argwhere(np.isfinite(table)):
            colour = "white" if table[row, column] > 0.5 else "black"
            written = rounded_down(table[row, column], 3)
            axis.text(column, row, written, ha="center", va="center", color=colour, fontsize=7)
        _name_classes(axis, classes)
    axis.set(title="Tightness")


def draw_radii_and_distances(axis: Any, radii: Any, distances: Any, norm: Norm) -> None:
    """Draw certified radii against the distances of the nearest adversarial inputs found."""
    known = np.isfinite(distances)
    radii, distances = radii[known], distances[known]
    inside = distances <= radii
    right, top = (1.05 * (values.max() or 1.0) for values in (radii, distances))
    axis.plot([0.0, right], [0.0, right], color=RED, lw=1, label="distance = radius")
    axis.scatter(radii[~inside], distances[~inside], s=12, color=BLUE, alpha=0.6, label="outside the radius")
    if inside.any():
        axis.scatter(radii[inside], distances[inside], s=30, color=RED, marker="x", label="inside the radius")
    axis.set(
        xlabel=f"certified radius in {NORM_SYMBOL[norm]}",
        ylabel="distance of the nearest adversarial input found",
        title="Radii and attacks",
        xlim=(0.0, right),
        ylim=(0.0, top),
    )
    axis.grid(alpha=0.3)
    axis.legend(edgecolor="none", loc="upper left")


def _name_classes(axis: Any, classes: Sequence[str]) -> None:
    """Label both axes of a matrix with the class names."""
    names = [one_line(name)[:MAX_NAME] for name in classes]
    axis.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
    axis.set_yticks(range(len(names)), names, parse_math=False)
