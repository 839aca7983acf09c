"""Checkpoints: the state of an unfinished training on disk, from which it resumes bit for bit."""

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

INTERVAL = 30.0  # seconds between checkpoints: costs a fraction of a percent, and loses little
FORMAT = 1
UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, TypeError, KeyError, pickle.PickleError)


class Checkpoint:
    """One checkpoint file, replaced during training and removed at the end.

    Args:
        path: the checkpoint file.
        identity: recipe, digests of the data and so on, by name, as JSON types. A training resumes only
            from a checkpoint with an equal identity.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._identity = json.loads(json.dumps(identity))
        self._written = time.monotonic()

    @property
    def due(self) -> bool:
        """True when the last checkpoint is ``INTERVAL`` old."""
        return time.monotonic() - self._written >= INTERVAL

    def write(self, state: Mapping[str, Any]) -> None:
        """Write the state atomically: tensors, numbers, strings, and containers of these."""
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "identity": json.dumps(self._identity), "state": dict(state)}, buffer)
        write_whole(self.path, buffer.getvalue())
        self._written = time.monotonic()

    def read(self) -> dict[str, Any]:
        """Return the state written last; no code in the file is executed.

        Raises:
            TrainingError: the file is missing, damaged, or the checkpoint of another training; the message
                names the first difference.
        """
        if not self.path.is_file():
            raise TrainingError(f"there is no checkpoint {self.path} to resume from; train without --resume")
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, not {FORMAT}")
            theirs, state = json.loads(content["identity"]), dict(content["state"])
        except UNREADABLE as error:
            raise TrainingError(
                f"{self.path} cannot be read as a checkpoint ({type(error).__name__}); "
                "delete it and train again"
            ) from error
        differing = _first_difference("", theirs, self._identity)
        if differing:
            key, before, now = differing
            raise TrainingError(
                f"{self.path} belongs to another training: {key} was {before} and is now {now}; resume with "
                "the former value, or delete the file and train again"
            )
        return state

    def remove(self) -> None:
        """Delete the file, and any temporary file left beside it by an interrupted write."""
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
