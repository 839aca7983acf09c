"""The state of an unfinished training on disk, so that it can go on as if nothing had happened."""

from __future__ import annotations

import io
import json
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lipmodel.errors import TrainingError
from lipmodel.files import write_whole

INTERVAL = 30.0  # seconds between checkpoints: a fraction of a percent of the time, and little to lose
FORMAT = 1


class Checkpoint:
    """One file, replaced as training goes on and removed when it is done.

    Args:
        path: of the file.
        identity: what the training is of, by name (recipe, data, …), as JSON types; a training goes on
            only where all of it is the same.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._identity = json.loads(json.dumps(identity))
        self._written = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._written >= INTERVAL

    def write(self, state: Mapping[str, Any]) -> None:
        """Writes the state, whole or not at all.

        Args:
            state: tensors, numbers, strings and containers of them.
        """
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "identity": json.dumps(self._identity), "state": dict(state)}, buffer)
        write_whole(self.path, buffer.getvalue())
        self._written = time.monotonic()

    def read(self) -> dict[str, Any]:
        """The state last written; nothing in the file is run.

        Raises:
            TrainingError: no file, one that is damaged, or one of another training; says what differs.
        """
        if not self.path.is_file():
            raise TrainingError(f"there is no {self.path} to resume from; train without --resume")
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, not {FORMAT}")
            theirs, state = json.loads(content["identity"]), dict(content["state"])
        except (
            OSError,
            EOFError,
            RuntimeError,
            ValueError,
            TypeError,
            KeyError,
            pickle.PickleError,
        ) as error:
            raise TrainingError(
                f"{self.path} cannot be read as a checkpoint ({type(error).__name__}); "
                "delete it and train anew"
            ) from error
        differing = _first_difference("", theirs, self._identity)
        if differing:
            key, before, now = differing
            raise TrainingError(
                f"{self.path} is of another training: {key} was {before} and is {now} now; resume with what "
                "it was, or delete the file and train anew"
            )
        return state

    def remove(self) -> None:
        """Deletes the file, and what a write cut short may have left beside it."""
        for path in (self.path, *self.path.parent.glob(f".{self.path.name}.*")):
            path.unlink(missing_ok=True)


def _first_difference(where: str, theirs: Any, ours: Any) -> tuple[str, str, str] | None:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            found = _first_difference(f"{where}.{key}".lstrip("."), theirs.get(key), ours.get(key))
            if found:
                return found
        return None
    return None if theirs == ours else (where, json.dumps(theirs), json.dumps(ours))
