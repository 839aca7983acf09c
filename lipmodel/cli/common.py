"""Shared by all commands: options, consoles, the progress bar, exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError
from lipmodel.norms import Norm
from lipmodel.report.tables import Table
from lipmodel.threat import Threat

NEGATIVE, BAD_USE, INTERRUPTED = 1, 2, 130

stdout = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class _NormType(click.ParamType):  # type: ignore[type-arg]  # generic in stubs, not in click 8.1
    """A norm by any of the names that ``Norm.parse`` accepts."""

    name = "norm"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "[" + "|".join(norm.symbol for norm in Norm) + "]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Norm:
        try:
            return Norm.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


PATH = click.Path(path_type=Path)
EXISTING_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
NORM = _NormType()

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
norm_option = click.option(
    "--norm", type=NORM, help="Norm of radii; also 1, 2, inf.  [default: the norm that the file names]"
)
threat_option = click.option(
    "--threat",
    help="Threat set of radii in place of --norm, a JSON object or a file with one: "
    '{"norm": "inf", "scale": {"age": 2, "*": 0}}. The scale is the size of one unit of change of a column.',
)
scale_option = click.option(
    "--scale", metavar="COLUMN=SIZE,…",
    help="Size of one unit of change of columns, by name or index: age=2,capital-gain=1000; '*' for all "
    "others, by default 1.",
)  # fmt: skip
freeze_option = click.option(
    "--freeze", metavar="COLUMN", multiple=True, help="Column that never changes. Repeatable."
)
data_dir_option = click.option("--data-dir", type=PATH, help="Folder with the files of a named data set.")


def threat_of(
    predictor: CertifiedPredictor,
    norm: Norm | None,
    threat: str | None,
    scale: str | None,
    freeze: tuple[str, ...],
) -> Threat | Norm | None:
    """Return the threat set that the options of a command describe, or the norm that they give, or None.

    Raises:
        click.UsageError: options contradict one another, or are no threat set of the model.
    """
    if threat is None and scale is None and not freeze:
        return norm
    if threat is not None and (norm or scale or freeze):
        raise click.UsageError("--threat cannot be combined with --norm, --scale or --freeze")
    if threat is not None:
        try:
            given = threat if threat.lstrip().startswith("{") else Path(threat).read_text(encoding="utf-8")
            description = json.loads(given)
        except OSError as error:
            raise click.UsageError(f"--threat: {threat:.100} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise click.UsageError(f"--threat is no JSON object: {error}") from None
        if not isinstance(description, dict):
            raise click.UsageError("--threat is no JSON object; give norm and scale")
    else:
        sizes: dict[str, float] = {}
        for part in scale.split(",") if scale else ():
            column, equals, size = part.rpartition("=")
            try:
                sizes[column.strip()] = float(size if equals else "")
            except ValueError:
                raise click.UsageError(f"--scale has '{part}'; COLUMN=SIZE is accepted") from None
        if both := sizes.keys() & set(freeze):
            raise click.UsageError(f"'{min(both)}' is in both --scale and --freeze")
        description = {"scale": sizes | dict.fromkeys(freeze, 0.0)} | ({"norm": norm} if norm else {})
    try:
        return predictor.parse_threat(description)
    except InputError as error:
        raise click.UsageError(str(error)) from None


@contextmanager
def bar(title: str) -> Iterator[Callable[[float], None]]:
    """Show a progress bar on standard error, if that is a terminal; yield its callback."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda share: progress.update(task, completed=share)


def print_tables(*tables: Table) -> None:
    """Print tables on standard output, with the first column left-justified."""
    for table in tables:
        shown = RichTable(title=escape(table.title), title_justify="left")
        for index, heading in enumerate(table.headings):
            shown.add_column(heading, justify="right" if index else "left")
        for row in table.rows:
            shown.add_row(*map(escape, row))
        stdout.print(shown)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on standard output."""
    click.echo(json.dumps(value, allow_nan=False))
