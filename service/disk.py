"""What the service keeps on a disk: its owner's alone, and what it means that nothing more can be written."""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""A disk, a quota or a limit of the process is used up."""

log = logging.getLogger(__name__)


def private_folder(path: Path) -> None:
    """Make a folder that its owner alone may enter, or close one that is there to others.

    Raises:
        OSError: it cannot be made.
    """
    path.mkdir(0o700, parents=True, exist_ok=True)
    close_to_others(path)


def private_file(path: Path) -> None:
    """Make an empty file that its owner alone may read, or close one that is there to others.

    Raises:
        OSError: it cannot be made.
    """
    # One that is there is not opened: to close it would take this process's locks off a database in use.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    close_to_others(path)


def close_to_others(path: Path) -> None:
    """Take the rights of others away, or log that they keep them, as on a volume that is not ours."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & OF_OTHERS:
        try:
            if mode & stat.S_ISVTX:  # such as /tmp: closing it would stop every other user
                raise PermissionError(errno.EPERM, "it is a folder that users share")
            path.chmod(mode & ~OF_OTHERS)
        except OSError as error:
            log.warning("%s is open to others (mode %o), and stays so: %s", path, mode, error.strerror)
        else:
            log.warning("%s was open to others (mode %o); now its owner alone may read it", path, mode)


def full(error: BaseException) -> str | None:
    """Return the reason where an error, or the one it was raised for, is of a disk that takes no more."""
    for found in (error, error.__cause__):
        if isinstance(found, OSError) and found.errno in FULL:
            return found.strerror
    return None
