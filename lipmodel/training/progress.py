"""Callbacks of a training: a progress bar, TensorBoard logs, and a stop request by signals."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lipmodel.errors import MissingExtraError, RecipeError
from lipmodel.training.loop import Status, Watch, unwatched

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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


@contextmanager
def tensorboard(folder: Path | None) -> Iterator[Watch]:
    """Yield a callback that logs the scalars of each step and epoch to the folder, if one is given.

    Raises:
        MissingExtraError: tensorboard is not installed.
        RecipeError: the folder is not writable.
    """
    if folder is None:
        yield unwatched
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("--log-dir", "logs") from error
    try:
        writer = SummaryWriter(str(folder))
    except OSError as error:
        raise RecipeError(
            f"cannot write to {folder} ({error.strerror}); a writable folder is accepted"
        ) from error
    logged = 0

    def watch(status: Status) -> None:
        nonlocal logged
        writer.add_scalar("loss/batch", status.loss, status.step)
        epoch = status.epoch
        if epoch is not None and epoch.number > logged:
            logged = epoch.number
            for name, value in asdict(epoch).items():
                if name != "number" and value is not None:
                    writer.add_scalar(f"epoch/{name}", value, logged)

    with writer:
        yield watch


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True once one of ``SIGNALS`` was received.

    A second signal has its usual effect. For the main thread only, which receives the signals.
    """
    received = False

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, receive) for number in SIGNALS}
    try:
        yield lambda: received
    finally:
        restore()
