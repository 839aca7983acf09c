"""Files of the service on disk: private to their owner; and errors of a full disk."""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

OTHERS = stat.S_IRWXG | stat.S_IRWXO
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of an exhausted disk, quota or file size limit."""

log = logging.getLogger(__name__)


def private_folder(path: Path) -> None:
    """Create a folder that only its owner may enter, or close an existing folder to others.

    Raises:
        OSError: the folder cannot be created.
    """
    path.mkdir(0o700, parents=True, exist_ok=True)
    close_to_others(path)


def private_file(path: Path) -> None:
    """Create an empty file that only its owner may read, or close an existing file to others.

    Raises:
        OSError: the file cannot be created.
    """
    # An existing file is not opened: closing it would release this process's locks on a database in use.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    close_to_others(path)


def close_to_others(path: Path) -> None:
    """Remove the rights of others, or log that this is not possible, as on a volume of another owner."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & OTHERS:
        try:
            if mode & stat.S_ISVTX:  # such as /tmp: closing it would stop every other user
                raise PermissionError(errno.EPERM, "it is a folder shared by users")
            path.chmod(mode & ~OTHERS)
        except OSError as error:
            log.warning(
                "%s is accessible to other users (mode %o), which cannot be changed: %s",
                path,
                mode,
                error.strerror,
            )
        else:
            log.warning(
                "%s was accessible to other users (mode %o); access is now limited to its owner", path, mode
            )


def full(error: BaseException) -> str | None:
    """Return the reason if an error or its cause is that of a full disk or quota; None for others."""
    for found in (error, error.__cause__):
        if isinstance(found, OSError) and found.errno in FULL:
            return found.strerror
    return None
