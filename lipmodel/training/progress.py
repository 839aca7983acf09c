"""A training as a bar on a terminal: loss, clean accuracy, time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lipmodel.training.loop import Status, Watch


@contextmanager
def training_bar(what: str, console: Console) -> Iterator[Watch]:
    """Gives a function that ``train`` can tell how far it is; shows nothing where there is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("loss {task.fields[loss]}  accuracy {task.fields[accuracy]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=1.0, loss="–", accuracy="–")

        def watch(status: Status) -> None:
            accuracy = "–" if status.accuracy is None else f"{status.accuracy:.1%}"
            progress.update(task, completed=status.share, loss=f"{status.loss:.4f}", accuracy=accuracy)

        yield watch
