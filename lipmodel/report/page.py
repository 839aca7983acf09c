"""Render reports from templates: Markdown, and HTML in one file with its images, all text escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lipmodel import __version__
from lipmodel.display import rounded_up
from lipmodel.errors import DataError
from lipmodel.files import write_whole
from lipmodel.report import plots

Drawing = Callable[[Any], None]


def render(package: str, template: str, **values: Any) -> bytes:
    """Return a rendered page.

    Args:
        package: subpackage of lipmodel with the template, which may extend ``page.html``.
        template: file name; values are escaped in .html templates, and in Markdown by the filter ``literal``.
        values: variables of the template.
    """
    loaders = [jinja2.PackageLoader(f"lipmodel.{name}", "") for name in (package, "report")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=template.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"literal": markdown_literal, "rounded_up": rounded_up}
    return environment.get_template(template).render(version=__version__, **values).encode()


def render_both(
    name: str,
    *,
    figures: Mapping[str, Drawing],
    files: tuple[str, ...] = (),
    template: str = "page.html",
    wrong: bool = False,
    **values: Any,
) -> dict[str, bytes]:
    """Return a report as Markdown and as HTML, by file name.

    Args:
        name: stem of the files.
        figures: drawings by caption, for HTML.
        files: further files to link from Markdown.
        template: template of the HTML file.
        wrong: true to mark the first figure of the summary as a negative finding.
        values: title, lead, summary, alerts and tables; for HTML also the variables of the template.
    """
    links = (f"{name}.json", f"{name}.html", *files)
    drawn = encode_figures(figures)
    return {
        f"{name}.md": render("report", "page.md", files=links, **values),
        f"{name}.html": render("report", template, figures=drawn, wrong=wrong, **values),
    }


def markdown_literal(text: str) -> str:
    """Return text escaped for Markdown, in one line: no markup, HTML, link or end of a cell."""
    return re.sub(r"([\\`*_~\[\]<>&|!$])", r"\\\1", plots.one_line(text))


def encode_figures(drawings: Mapping[str, Drawing]) -> list[tuple[str, str]]:
    """Return (source of an image element, caption) of each drawing."""
    return [
        (data_url("image/svg+xml", plots.to_svg(figure(draw))), caption) for caption, draw in drawings.items()
    ]


def figure(draw: Drawing) -> Figure:
    """Return a drawing in a figure of its own."""
    drawn = Figure(figsize=(6.2, 4.6), layout="constrained", dpi=150)
    draw(drawn.subplots())
    return drawn


def image_url(numbers: ArrayLike, shape: tuple[int, ...]) -> str | None:
    """Return an input as the data URL of an image; None if its shape is not that of an image."""
    pixels = plots.as_image(np.asarray(numbers), shape)
    return None if pixels is None else data_url("image/png", plots.pixels_to_png(pixels))


def data_url(kind: str, content: bytes) -> str:
    """Return content as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def write_files(files: dict[str, bytes], folder: Path) -> None:
    """Write files atomically to a folder, which is created if missing.

    Raises:
        DataError: the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_whole(folder / name, content)
    except OSError as error:
        raise DataError(
            f"cannot write to {folder} ({error.strerror}); a writable folder is required"
        ) from error
