"""Writing results: whole files, readable JSON."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any


def to_json(value: Any) -> bytes:
    """Indented JSON; NaN and infinities, which JSON has not, are refused."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Writes beside the path and renames, so that no reader ever sees a part of the file.

    Args:
        path: of the file.
        content: of the file.
        mode: rights of the file, less those that the process's mask takes from any new file.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a loss of power could leave the new name with no content
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
