"""Pages from templates, each one HTML file with its pictures in it and every text escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from lipmodel import __version__
from lipmodel.display import certified_percent, percent, rounded, rounded_down, rounded_up
from lipmodel.errors import DataError
from lipmodel.files import write_whole
from lipmodel.report import plots

Drawing = Callable[[Any], None]


def render(package: str, template: str, **values: Any) -> bytes:
    """A page's bytes.

    Args:
        package: the part of lipmodel that the template lies in; it may extend ``base.html``.
        template: its file name; of a name that ends in .html the values are escaped, in Markdown those
            that the filter ``literal`` is put on.
        values: what the template speaks of.
    """
    loaders = [jinja2.PackageLoader(f"lipmodel.{name}", "") for name in (package, "report")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=template.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    filters = (rounded, rounded_up, rounded_down, percent, certified_percent)
    environment.filters |= {"literal": markdown_literal} | {f.__name__: f for f in filters}
    return environment.get_template(template).render(version=__version__, **values).encode()


def markdown_literal(text: str) -> str:
    """Text that Markdown shows as it is, in one line: no markup, no HTML, no link, no cell's end."""
    return re.sub(r"([\\`*_~\[\]<>&|!$])", r"\\\1", plots.one_line(text))


def figures(drawings: Mapping[str, Drawing]) -> list[tuple[str, str]]:
    """(source of an image element, caption) of each drawing, by its caption."""
    return [(data_url("image/svg+xml", svg(draw)), caption) for caption, draw in drawings.items()]


def svg(draw: Drawing) -> bytes:
    """One drawing as the bytes of an SVG file."""
    return plots.to_svg(_drawn(draw))


def png(draw: Drawing) -> bytes:
    """One drawing as the bytes of a PNG file."""
    return plots.to_png(_drawn(draw))


def data_url(kind: str, content: bytes) -> str:
    """Content written into the page itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def write_files(files: dict[str, bytes], folder: Path) -> None:
    """Writes each file whole, into a folder that is made if it is not there.

    Raises:
        DataError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_whole(folder / name, content)
    except OSError as error:
        raise DataError(
            f"cannot write to {folder} ({error.strerror}); a writable folder is needed"
        ) from error


def _drawn(draw: Drawing) -> Figure:
    figure = Figure(figsize=(6.2, 4.6), layout="constrained", dpi=150)
    draw(figure.subplots())
    return figure
