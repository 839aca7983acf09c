"""Small-scale experiments of Anil, Lucas, Grosse 2019, "Sorting out Lipschitz function approximation".

(a) Fitting |x| under a layerwise constraint: GroupSort reaches slope 1, ReLU does not (section 3).
(b) Two moons under a common Lipschitz constant: hinge against BCE (section 5).
(c) The error of approximating a known 1-Lipschitz function, against width.

All figures and numbers come from exported files, read as for certification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.load import load_parts
from lipmodel.errors import RecipeError
from lipmodel.files import to_json, write_whole
from lipmodel.network.metadata import Claims
from lipmodel.norms import Array, Norm, vector_norm
from lipmodel.progress import Progress, part, silent
from lipmodel.report.plots import BLUE, GREY, NORM_SYMBOL, ORANGE, new_figure, to_png
from lipmodel.training.export.onnx_export import export, to_graph
from lipmodel.training.loop import deterministic
from lipmodel.training.losses import BinaryCrossEntropy
from lipmodel.training.network import build_network
from lipmodel.training.optimizer import minimise
from lipmodel.training.plots import draw_radius_field
from lipmodel.training.recipes import NetworkRecipe, Schedule, load_recipe
from lipmodel.training.train import train_recipe

SEED = 0
ACTIVATIONS = {"relu": ("ReLU", ORANGE), "maxmin": ("GroupSort (pairs)", BLUE)}

ABSOLUTE_WIDTHS = (32, 32)
ABSOLUTE_SCHEDULE = Schedule(epochs=400, batch_size=64, learning_rate=0.005)

WIDTHS = (4, 8, 16, 32, 64, 128)
DEPTH = 3
WIDTH_SCHEDULE = Schedule(epochs=60, batch_size=128, learning_rate=0.005)
CENTRES = np.array([[-0.6, -0.5], [0.5, -0.7], [0.0, 0.1], [-0.5, 0.7], [0.7, 0.5]])


def make_figures(out_dir: Path, progress: Progress = silent) -> dict[str, Any]:
    """Run the three experiments, write a PNG each and ``figures.json``, and return the content of the latter.

    Args:
        out_dir: folder to write to, created if missing.
        progress: receives the share done.

    Raises:
        RecipeError: the folder is not writable.
        MissingExtraError: scikit-learn is not installed.
    """
    parts: list[tuple[str, float, Callable[[Progress], tuple[dict[str, Any], bytes]]]] = [
        ("absolute_value", 0.2, _absolute_value),
        ("two_moons_losses", 0.2, _two_moons_losses),
        ("error_against_width", 0.6, _error_against_width),
    ]  # with each experiment's share of the time
    numbers: dict[str, Any] = {}
    done = 0.0
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for name, share, run in parts:
            numbers[name], picture = run(part(progress, done, done + share))
            write_whole(out_dir / f"{name}.png", picture)
            done += share
        write_whole(out_dir / "figures.json", to_json(numbers))
    except OSError as error:
        raise RecipeError(
            f"cannot write to {out_dir} ({error.strerror}); a writable folder is accepted"
        ) from error
    return numbers


def _absolute_value(progress: Progress) -> tuple[dict[str, Any], bytes]:
    """Run (a), |x| on [-1, 1]: fit each activation's curve and measure its largest slope."""
    inputs = np.linspace(-1.0, 1.0, 512)[:, None]
    fine = np.linspace(-1.0, 1.0, 2001)[:, None]
    figure, (curves, slopes) = new_figure(
        2, "Fitting |x| with 1-Lipschitz networks: layerwise constraints, ReLU against GroupSort"
    )
    curves.plot(fine, np.abs(fine), color=GREY, lw=4, alpha=0.4, label="|x|")
    numbers: dict[str, Any] = {}
    for index, (activation, (title, colour)) in enumerate(ACTIVATIONS.items()):
        recipe = NetworkRecipe(widths=ABSOLUTE_WIDTHS, constraint="rows", activation=activation)
        predictor = _regress(recipe, Norm.INF, inputs, np.abs(inputs), ABSOLUTE_SCHEDULE)
        fitted = predictor.predict(fine).scores
        slope = np.diff(fitted[:, 0]) / np.diff(fine[:, 0])
        numbers[activation] = {
            "observed_largest_slope": float(np.abs(slope).max()),
            "observed_root_mean_square_error": _root_mean_square(fitted - np.abs(fine)),
            "bound_lipschitz": predictor.bounds(Norm.INF).bound_global,
            "widths": list(recipe.widths),
        }
        curves.plot(fine, fitted, color=colour, label=title)
        label = f"{title}: largest |slope| {numbers[activation]['observed_largest_slope']:.3f}"
        slopes.plot(fine[1:], slope, color=colour, label=label)
        progress((index + 1) / len(ACTIVATIONS))
    curves.set(xlabel="x", ylabel="f(x)", title="Fitted curves", ylim=(-0.05, 1.3))
    curves.legend(loc="upper center", ncols=3)
    slopes.set(xlabel="x", ylabel="f′(x)", title="Slopes", ylim=(-1.15, 1.5))
    for level in (-1.0, 1.0):
        slopes.axhline(level, color=GREY, lw=0.8, ls=":")
    slopes.legend(loc="upper center")
    return numbers, to_png(figure)


def _two_moons_losses(progress: Progress) -> tuple[dict[str, Any], bytes]:
    """Run (b): one recipe and Lipschitz constant, two losses."""
    recipe = load_recipe("two-moons", seed=SEED)
    parts = load_parts(recipe.data)
    losses = {
        "bce": ("BCE", replace(recipe, loss=BinaryCrossEntropy())),
        "hinge": (f"hinge, margin {recipe.loss.margin:g}", recipe),  # type: ignore[attr-defined]
    }
    figure, axes = new_figure(
        2,
        f"Two moons, {recipe.lipschitz:g}-Lipschitz in {NORM_SYMBOL[recipe.norm]}: BCE against hinge",
        height=3.8,
    )
    numbers: dict[str, Any] = {}
    for index, (name, (title, variant)) in enumerate(losses.items()):
        trained = train_recipe(variant, *parts)
        progress((index + 1) / len(losses))
        numbers[name] = trained.evaluation.summary() | {
            "bound_lipschitz": trained.predictor.bounds(recipe.norm).bound_global
        }
        draw_radius_field(axes[index], trained.predictor, recipe.norm, trained.held_out, limit=1.0)
        evaluation = trained.evaluation
        axes[index].set_title(
            f"{title}: held-out accuracy {evaluation.clean_accuracy:.1%},\n"
            f"{evaluation.certified_accuracy['0.1']:.1%} certified at ε = 0.1",
            fontsize=11,
        )
    return numbers, to_png(figure)


def _error_against_width(progress: Progress) -> tuple[dict[str, Any], bytes]:
    """Run (c), the l2 distance to the nearest of five points in the plane: slope 1 almost everywhere."""
    rng = np.random.default_rng(SEED)
    inputs, unseen = (rng.uniform(-1.0, 1.0, size=(4000, 2)) for _ in range(2))
    runs = [(activation, width) for activation in ACTIVATIONS for width in WIDTHS]
    errors: dict[str, list[float]] = {activation: [] for activation in ACTIVATIONS}
    figure, (axis, function) = new_figure(
        2, "Approximating a 1-Lipschitz function under orthogonality constraints"
    )
    for index, (activation, width) in enumerate(runs):
        recipe = NetworkRecipe(widths=(width,) * DEPTH, constraint="orthogonal", activation=activation)
        predictor = _regress(recipe, Norm.TWO, inputs, _distance(inputs), WIDTH_SCHEDULE)
        errors[activation].append(_root_mean_square(predictor.predict(unseen).scores - _distance(unseen)))
        progress((index + 1) / len(runs))
    for activation, (title, colour) in ACTIVATIONS.items():
        axis.semilogx(WIDTHS, errors[activation], color=colour, marker="o", label=title)
    axis.set(
        xlabel=f"width of each of {DEPTH} hidden layers",
        ylabel="root mean square error",
        title="Error on unseen points",
    )
    spread = float(_distance(unseen).std())
    axis.axhline(spread, color=GREY, ls="--", label="best constant")
    axis.set_ylim(0.0, 1.15 * spread)
    axis.set_xticks(WIDTHS, [str(width) for width in WIDTHS])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    line = np.linspace(-1.0, 1.0, 201)
    values = _distance(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)).reshape(201, 201)
    drawn = function.contourf(line, line, values, levels=12, cmap="viridis")
    function.scatter(*CENTRES.T, color="white", s=12)
    function.set(
        xticks=np.linspace(-1.0, 1.0, 5),
        yticks=np.linspace(-1.0, 1.0, 5),
        xlabel="$x_1$",
        ylabel="$x_2$",
        aspect="equal",
        title="The function: distance to the nearest point",
    )
    figure.colorbar(drawn, ax=function, fraction=0.045, pad=0.03)
    numbers = {
        "widths": list(WIDTHS),
        "hidden_layers": DEPTH,
        "observed_root_mean_square_error": errors,
        "error_of_the_best_constant": spread,
    }
    return numbers, to_png(figure)


def _distance(points: Array) -> Array:
    """Return the l2 distance (N, 1) of points (N, 2) to the nearest centre."""
    return np.asarray(vector_norm(points[:, None] - CENTRES, Norm.TWO).min(axis=1)[:, None])


def _regress(
    recipe: NetworkRecipe, norm: Norm, inputs: Array, targets: Array, schedule: Schedule
) -> CertifiedPredictor:
    """Return a 1-Lipschitz network fitted by least squares, exported and read back."""
    x, y = (torch.from_numpy(array).float() for array in (inputs, targets))
    with deterministic(schedule.threads):
        generator = torch.Generator().manual_seed(SEED)
        network = build_network(
            recipe, norm=norm, lipschitz=1.0, mean=x.mean(dim=0), outputs=1, generator=generator
        )
        minimise(network, lambda a, b: nn.functional.mse_loss(network(a), b), (x, y), schedule, generator)
    return export(to_graph(network), Claims(norm=norm, lipschitz=1.0))[1]


def _root_mean_square(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
