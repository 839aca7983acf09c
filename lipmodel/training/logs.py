"""Learning curves as files that TensorBoard reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from lipmodel.errors import MissingExtraError, RecipeError
from lipmodel.training.loop import Status, Watch, unwatched


@contextmanager
def tensorboard(folder: Path | None) -> Iterator[Watch]:
    """Gives a function that a training can tell how far it is: scalars of each step and each epoch.

    Args:
        folder: to write to; None for no logs.

    Raises:
        MissingExtraError: tensorboard is not installed.
        RecipeError: the folder cannot be written to.
    """
    if folder is None:
        with nullcontext():
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
    told = 0

    def watch(status: Status) -> None:
        nonlocal told
        writer.add_scalar("loss/batch", status.loss, status.step)
        epoch = status.epoch
        if epoch is not None and epoch.number > told:
            told = epoch.number
            for name, value in asdict(epoch).items():
                if name != "number" and value is not None:
                    writer.add_scalar(f"epoch/{name}", value, told)

    with writer:
        yield watch
