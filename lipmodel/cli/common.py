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

from lipmodel.norms import Norm
from lipmodel.report.tables import Table

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
data_dir_option = click.option("--data-dir", type=PATH, help="Folder with the files of a named data set.")


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
