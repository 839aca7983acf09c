"""The data folder, whose files evaluations name by path; links never lead out of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lipmodel.errors import InputError

MAX_FILES = 500
"""In a folder that is named as data: each is opened."""


def find(root: Path | None, path: str) -> tuple[Path, dict[PurePosixPath, Path]]:
    """Return the files that a path in the data folder names: one, or those of a folder and of its folders.

    Links within the data folder are how volumes are mounted, and are followed.

    Returns:
        The folder without links, and the files without links by their path in it as it was given.

    Raises:
        InputError: there is no data folder, or nothing of that name in it that does not lead out.
    """
    if root is None:
        raise InputError("is given; this service has no data folder, which --data names", field="path")
    refused = InputError(f"nothing named '{path[:100]}' is in the service's data folder", field="path")
    given = PurePosixPath(path)
    if given.is_absolute() or ".." in given.parts:
        raise refused
    files: dict[PurePosixPath, Path] = {}
    try:
        top = root.resolve(strict=True)
        for name, target in _walk(given, (root / path).resolve(strict=True)):
            if not target.is_relative_to(top):
                raise refused
            files[name] = target
            if len(files) > MAX_FILES:
                raise InputError(f"names a folder of more than {MAX_FILES} files", field="path")
    except (OSError, ValueError, RuntimeError):  # no such file, a zero byte, links in a circle
        raise refused from None
    if not files:
        raise refused
    return top, files


def pin(root: Path, path: str, place: Path) -> Path:
    """Open files of the data folder; return a path that leads to these, whatever is put there later.

    Args:
        root: the data folder, without links.
        path: see :func:`find`.
        place: where a folder of links to this process's descriptors is made.

    Raises:
        InputError: see :func:`find`; also where a link was put in the place of a file meanwhile.
    """
    top, files = find(root, path)
    for name, target in files.items():
        try:
            descriptor = _open(top, target)
        except OSError:
            raise InputError(f"'{path[:100]}' was changed while it was opened", field="path") from None
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(f"/proc/self/fd/{descriptor}")
    return place / path


def _walk(given: PurePosixPath, found: Path, depth: int = 0) -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield regular files (a pipe would block for ever), as deep as the folders of a data set go."""
    if found.is_dir():
        for child in sorted(found.iterdir()) if depth < 2 else ():
            yield from _walk(given / child.name, child.resolve(strict=True), depth + 1)
    elif found.is_file():
        yield given, found


def _open(top: Path, target: Path) -> int:
    """Open a file, following no link below the folder.

    Raises:
        OSError: there is a link, or no regular file.
    """
    *folders, name = target.relative_to(top).parts
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    for part, kind in [*((folder, os.O_DIRECTORY) for folder in folders), (name, 0)]:
        outer = descriptor
        try:
            descriptor = os.open(part, flags | kind, dir_fd=outer)
        finally:
            os.close(outer)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{name} is no regular file")
    return descriptor
