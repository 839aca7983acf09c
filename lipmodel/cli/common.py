"""What the commands share: options, the two consoles, the progress bar, exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lipmodel.norms import Norm

NEGATIVE, BAD_USE, INTERRUPTED = 1, 2, 130

stdout = Console(highlight=False)
err = Console(stderr=True, highlight=False)

PATH = click.Path(path_type=Path)
EXISTING_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
NORM = click.Choice([norm.value for norm in Norm])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
norm_option = click.option("--norm", type=NORM, help="Norm of the input; by default the one the file names.")
data_dir_option = click.option("--data-dir", type=PATH, help="Folder of a named data set's files.")


@contextmanager
def bar(what: str) -> Iterator[Callable[[float], None]]:
    """A progress bar on standard error, on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda share: progress.update(task, completed=share)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    click.echo(json.dumps(value, allow_nan=False))
