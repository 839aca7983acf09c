"""Atomic writing of files, and indented JSON."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any


def to_json(value: Any) -> bytes:
    """Return indented JSON.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not have.
    """
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a temporary file beside the path and rename it, so that readers never see a partial file.

    Args:
        path: path of the file.
        content: content of the file.
        mode: permission bits of the file, before the process's umask.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power loss could leave an empty file under the new name
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
