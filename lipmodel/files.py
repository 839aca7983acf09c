"""Writing results: whole files, readable JSON."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def to_json(value: Any) -> bytes:
    """Indented JSON; NaN and infinities, which JSON has not, are refused."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_whole(path: Path, content: bytes) -> None:
    """Writes beside the path and renames, so that no reader ever sees a part of the file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a loss of power could leave the new name with no content
        except OSError:
            os.unlink(file.name)
            raise
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(file.name, 0o666 & ~mask)  # as any new file: a temporary one is private
    os.replace(file.name, path)
