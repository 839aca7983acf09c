"""Progress bar of a training: loss, clean accuracy, estimated certified accuracy, time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lipmodel.training.loop import Status, Watch


@contextmanager
def training_bar(title: str, epsilon: float, console: Console) -> Iterator[Watch]:
    """Yield a callback that shows a training's status as a progress bar; nothing without a terminal.

    Args:
        title: text beside the bar.
        epsilon: radius of the estimated certified accuracy.
        console: console of the bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("loss {task.fields[loss]}  held out: {task.fields[measured]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=1.0, loss="–", measured="–")

        def watch(status: Status) -> None:
            epoch, measured = status.epoch, "–"
            if epoch is not None and epoch.estimated_certified_accuracy is not None:
                measured = (
                    f"clean {epoch.held_out_accuracy:.1%}  "
                    f"certified at {epsilon:g}: {epoch.estimated_certified_accuracy:.1%} (estimate)"
                )
            progress.update(task, completed=status.share, loss=f"{status.loss:.4f}", measured=measured)

        yield watch
