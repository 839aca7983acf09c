"""Atomic changes of the models folder: complete or absent even after a power failure.

Files that are being written or removed have names that begin with a dot, which no reader opens.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lipmodel.errors import ModelError
from service.models.layout import ACCEPTED_NAMES, FORCE_FILE, LABELS_FILE, NAME, SAMPLES_FILE, VERSION

STAGED, REMOVED = ".upload-", ".removed-"


def check_name(name: str) -> None:
    """Refuse a name that a new model cannot have.

    Raises:
        ModelError: the name is not valid.
    """
    if not NAME.fullmatch(name) or name.endswith((".onnx", ".toml")):
        raise ModelError(
            f"'{name[:64]}' cannot be the name of a model; {ACCEPTED_NAMES}, and no end '.onnx' or '.toml'"
        )


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Hold the folder's lock, which all processes that change the folder take.

    Raises:
        OSError: the folder cannot be opened or locked.
    """
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # releases the lock


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """Create a folder to fill and move into place; delete it at the end if it was not moved.

    The folder is locked until then, so that :func:`sweep` recognises the folders of processes that died.

    Raises:
        OSError: the folder cannot be written.
    """
    path = root / f"{STAGED}{uuid.uuid4().hex}"
    with exclusive(root):  # or a sweep could delete the folder before it is locked
        path.mkdir()
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def put_version(root: Path, name: str, staged: Path, *, force: bool = False) -> str:
    """Move a staged folder into place as the next version of a model; return the version's number.

    Args:
        root: the models folder.
        name: of the model.
        staged: the folder, see :func:`staging`.
        force: make the version the default even if clients of the present default would break.

    Raises:
        OSError: the model's folder cannot be written, or is a link to a folder elsewhere.
    """
    folder = _folder(root, name)
    if force:
        (staged / FORCE_FILE).touch()
    for path in (*staged.iterdir(), staged):
        _sync(path)
    numbers = [int(path.name) for path in folder.iterdir() if VERSION.fullmatch(path.name)]
    number = max([0, (root / f"{name}.onnx").exists(), *numbers]) + 1
    while True:
        try:
            staged.rename(folder / str(number))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            number += 1  # taken by another server
        else:
            _sync(folder)
            return str(number)


def put_labels(root: Path, name: str, labels: Mapping[str, str]) -> None:
    """Write the labels of a model.

    Raises:
        OSError: the model's folder cannot be written, or is a link to a folder elsewhere.
    """
    folder = _folder(root, name)
    staged = folder / f"{STAGED}{uuid.uuid4().hex}"
    try:
        staged.write_text(json.dumps(labels), "ascii")
        _sync(staged)
        staged.rename(folder / LABELS_FILE)
    finally:
        staged.unlink(missing_ok=True)
    _sync(folder)


def remove_version(root: Path, name: str, version: str) -> None:
    """Remove the files of one version.

    Raises:
        OSError: the model's folder cannot be written, or is a link to a folder elsewhere.
    """
    check_name(name)
    _check_inside(root, root / name)
    _remove(root, root / name / version)
    if version == "1":
        _remove(root, root / f"{name}.onnx")
    with suppress(OSError):
        (root / name).rmdir()  # if it is empty


def remove_model(root: Path, name: str) -> None:
    """Remove a model's folder, file, samples and settings; the settings last, as it is never served without.

    Files with the external data of its file stay: another model's file may refer to them as well.

    Raises:
        OSError: the folder cannot be written.
    """
    check_name(name)
    for path in (root / name, *(root / f"{name}.{end}" for end in ("onnx", SAMPLES_FILE, "toml"))):
        _remove(root, path)


def sweep(root: Path) -> None:
    """Remove the unfinished folders and files of services that died, but none of running services."""
    with suppress(OSError), exclusive(root):
        for path in (*root.glob(f"{STAGED}*"), *root.glob(f"{REMOVED}*"), *root.glob(f"*/{STAGED}*")):
            if path.is_dir() and not path.is_symlink():
                with suppress(BlockingIOError):  # the process that created it runs
                    descriptor = os.open(path, os.O_RDONLY)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(path, ignore_errors=True)
                    finally:
                        os.close(descriptor)
            else:
                path.unlink()


def _folder(root: Path, name: str) -> Path:
    """Return the model's own folder, created if needed."""
    check_name(name)
    folder = root / name
    folder.mkdir(exist_ok=True)
    _check_inside(root, folder)
    _sync(root)
    return folder


def _check_inside(root: Path, folder: Path) -> None:
    if not folder.resolve().is_relative_to(root.resolve()):
        raise PermissionError(f"'{folder.name}' is a link to a folder elsewhere")


def _remove(root: Path, path: Path) -> None:
    """Rename a file or folder to a hidden name, in one step, and delete it."""
    hidden = root / f"{REMOVED}{uuid.uuid4().hex}"
    try:
        path.rename(hidden)
    except (FileNotFoundError, NotADirectoryError):
        return
    with suppress(FileNotFoundError):  # deleted by a sweep meanwhile
        if hidden.is_dir() and not hidden.is_symlink():
            shutil.rmtree(hidden)
        else:
            hidden.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
