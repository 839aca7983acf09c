"""The closing report of a training: one HTML file that needs nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Callable
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from lipmodel import __version__
from lipmodel.certify.radius import Radii
from lipmodel.dataset import Dataset
from lipmodel.display import rounded_down
from lipmodel.norms import Array
from lipmodel.training import plots
from lipmodel.training.account import account
from lipmodel.training.trained import Trained

EXAMPLES = 6  # inputs shown with the smallest radius, and with the largest
MOST_VALUES = 8  # coordinates written of an input that is no image

Drawing = Callable[[Any], None]


def report(trained: Trained) -> bytes:
    """The report of a training as an HTML file's bytes."""
    recipe, data, radii = trained.recipe, trained.held_out, trained.radii
    drawings: dict[str, Drawing] = {
        "Loss and accuracy by epoch. The dotted line is torch's estimate at the largest epsilon; all "
        "other figures of certified accuracy are measured from the exported file.": lambda axis: (
            plots.draw_learning_curves(axis, trained.history)
        ),
        "Share of held-out inputs that no change of size ε can turn into an error.": lambda axis: (
            plots.draw_certified_accuracy(axis, radii, recipe.norm, data)
        ),
        "A radius of 0 means that nothing is certified.": lambda axis: plots.draw_radius_histogram(
            axis, radii, recipe.norm, data
        ),
        "Rows are labels, columns answers.": lambda axis: plots.draw_confusion(axis, radii, data),
    }
    if data.inputs.shape[1] == 2:
        drawings["Decision regions, shaded by certified radius."] = lambda axis: plots.draw_radius_field(
            axis, trained.predictor, recipe.norm, data
        )
    order = np.argsort(radii.certified_radius, kind="stable")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(
        (resources.files("lipmodel.training") / "report.html").read_text(encoding="utf-8")
    )
    page = template.render(
        recipe=recipe,
        evaluation=trained.evaluation,
        abstentions=int((radii.certified_radius == 0).sum()),
        record=trained.record(),
        account=account(recipe, trained.train, data),
        figures=[(_figure(draw), caption) for caption, draw in drawings.items()],
        examples=[
            ("smallest", _examples(data, radii, order[:EXAMPLES])),
            ("largest", _examples(data, radii, order[::-1][:EXAMPLES])),
        ],
        toml=recipe.to_toml(),
        version=__version__,
    )
    return page.encode()


def as_image(inputs: Array, shape: tuple[int, ...]) -> Array | None:
    """One input as (h, w) or (h, w, 3) pixels in [0, 1]; None where its shape is no image's."""
    pixels = np.asarray(inputs, dtype=np.float64).reshape(shape)
    if len(shape) == 3 and shape[0] in (1, 3):  # channels first
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        return None
    low, high = pixels.min(), pixels.max()
    return pixels if low >= 0.0 and high <= 1.0 else (pixels - low) / (high - low or 1.0)


def _examples(data: Dataset, radii: Radii, rows: Any) -> list[dict[str, Any]]:
    """What is told of these inputs, in that order."""
    typical, spread = data.inputs.mean(axis=0), data.inputs.std(axis=0)
    names = data.columns or tuple(f"x{i + 1}" for i in range(data.inputs.shape[1]))
    told = []
    for row in rows:
        image = as_image(data.inputs[row], data.input_shape)
        unusual = np.argsort(-np.abs(data.inputs[row] - typical) / np.maximum(spread, 1e-12), kind="stable")
        told.append(
            {
                "row": int(row),
                "label": data.classes[data.labels[row]],
                "answer": data.classes[radii.label[row]],
                "right": bool(radii.label[row] == data.labels[row]),
                "radius": rounded_down(float(radii.certified_radius[row]), 4),
                "image": None if image is None else _image(image),
                "values": [(names[i], float(data.inputs[row, i])) for i in np.sort(unusual[:MOST_VALUES])],
            }
        )
    return told


def _figure(draw: Drawing) -> str:
    figure = Figure(figsize=(6.2, 4.6), layout="constrained", dpi=150)
    draw(figure.subplots())
    return _data_url("image/svg+xml", plots.to_svg(figure))


def _image(pixels: Array) -> str:
    return _data_url("image/png", plots.pixels_to_png(pixels))


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
