"""Files of the data folder, for evaluations that name them by path; links out of the folder are refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lipmodel.errors import InputError

MAX_FILES = 500
"""Largest number of files in a folder of data: each is opened."""


def find(root: Path | None, path: str) -> tuple[Path, dict[PurePosixPath, Path]]:
    """Return the files at a path in the data folder: one file, or those in a folder and its subfolders.

    Links within the data folder are followed: volumes are mounted by them.

    Args:
        root: the data folder, or None.
        path: relative to it, from the request.

    Returns:
        The data folder with its links resolved, and the resolved path of each file by its path in the folder.

    Raises:
        InputError: there is no data folder, or no file at the path, or a link leads out of the folder.
    """
    if root is None:
        raise InputError("is given, but this service has no data folder; set one with --data", field="path")
    refused = InputError(f"'{path[:100]}' was not found in the service's data folder", field="path")
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
                raise InputError(f"is a folder of more than {MAX_FILES} files, the limit", field="path")
    except (OSError, ValueError, RuntimeError):  # no such file, a null byte, circular links
        raise refused from None
    if not files:
        raise refused
    return top, files


def pin(root: Path, path: str, place: Path) -> Path:
    """Open files of the data folder; return a path that leads to the open files, even if they are replaced.

    Args:
        root: the data folder, its links resolved.
        path: see :func:`find`.
        place: folder for links to this process's descriptors.

    Raises:
        InputError: see :func:`find`; also if a file was replaced by a link meanwhile.
    """
    top, files = find(root, path)
    for name, target in files.items():
        try:
            descriptor = _open(top, target)
        except OSError:
            raise InputError(f"'{path[:100]}' was replaced while it was opened", field="path") from None
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(f"/proc/self/fd/{descriptor}")
    return place / path


def _walk(given: PurePosixPath, found: Path, depth: int = 0) -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield regular files (a pipe would block), down to the depth of the folders of a data set."""
    if found.is_dir():
        for child in sorted(found.iterdir()) if depth < 2 else ():
            yield from _walk(given / child.name, child.resolve(strict=True), depth + 1)
    elif found.is_file():
        yield given, found


def _open(top: Path, target: Path) -> int:
    """Open a regular file without following links below the folder; raise OSError where there is one."""
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
        raise OSError(f"{name} is not a regular file")
    return descriptor
