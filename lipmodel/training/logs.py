"""Learning curves as TensorBoard logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from lipmodel.errors import MissingExtraError, RecipeError
from lipmodel.training.loop import Status, Watch, unwatched


@contextmanager
def tensorboard(folder: Path | None) -> Iterator[Watch]:
    """Yield a callback that logs the scalars of each step and each epoch of a training.

    Args:
        folder: folder of the logs; None for no logs.

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
