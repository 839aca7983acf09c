"""Changes of the models folder: each is whole or is not, whenever the power fails.

What is being written, or is going, has a name that begins with a dot, which nobody reads.
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
    """Whether a model of this name can be written.

    Raises:
        ModelError: it cannot.
    """
    if not NAME.fullmatch(name) or name.endswith((".onnx", ".toml")):
        raise ModelError(
            f"'{name[:64]}' cannot name a model; {ACCEPTED_NAMES}, the end not '.onnx' or '.toml'"
        )


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Waits until no other process that asks likewise changes the folder.

    Raises:
        OSError: the folder cannot be opened or locked.
    """
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # which unlocks


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """Make a new folder to be filled and put in its place; delete it at the end otherwise.

    The folder is locked as long as its maker lives, so that :func:`sweep` can tell one that was left behind.

    Raises:
        OSError: the folder cannot be written.
    """
    path = root / f"{STAGED}{uuid.uuid4().hex}"
    with alone(root):  # or a sweep could come between
        path.mkdir()
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def put_version(root: Path, name: str, staged: Path, *, force: bool = False) -> str:
    """Moves a staged folder to where the next version belongs; returns the version.

    Args:
        root: the models folder.
        name: of the model.
        staged: the folder, see :func:`staging`.
        force: whether the version becomes the default even if clients of the present one would break.

    Raises:
        OSError: the folder cannot be written, or leads elsewhere.
    """
    folder = _folder(root, name)
    if force:
        (staged / FORCE_FILE).touch()
    for path in (*staged.iterdir(), staged):
        _sync(path)
    number = max([0, (root / f"{name}.onnx").exists(), *_numbers(folder)]) + 1
    while True:
        try:
            staged.rename(folder / str(number))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            number += 1  # another server's
        else:
            _sync(folder)
            return str(number)


def put_labels(root: Path, name: str, labels: Mapping[str, str]) -> None:
    """Writes the labels of a model.

    Raises:
        OSError: the folder cannot be written, or leads elsewhere.
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
    """Removes the files of one version.

    Raises:
        OSError: the folder cannot be written, or leads elsewhere.
    """
    check_name(name)
    _check_inside(root, root / name)
    _remove(root, root / name / version)
    if version == "1":
        _remove(root, root / f"{name}.onnx")
    with suppress(OSError):
        (root / name).rmdir()  # where nothing is left


def remove_model(root: Path, name: str) -> None:
    """Removes a model's folder, file, samples and settings, these last: it is never served without them.

    Weights that its file keeps in another beside it stay, as whose they are cannot be told from here.

    Raises:
        OSError: the folder cannot be written, or leads elsewhere.
    """
    check_name(name)
    for path in (root / name, *(root / f"{name}.{end}" for end in ("onnx", SAMPLES_FILE, "toml"))):
        _remove(root, path)


def sweep(root: Path) -> None:
    """Remove the unfinished folders and files of killed services, and none of running ones."""
    with suppress(OSError), alone(root):
        for path in (*root.glob(f"{STAGED}*"), *root.glob(f"{REMOVED}*"), *root.glob(f"*/{STAGED}*")):
            if path.is_dir() and not path.is_symlink():
                with suppress(BlockingIOError):  # its maker lives
                    descriptor = os.open(path, os.O_RDONLY)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(path, ignore_errors=True)
                    finally:
                        os.close(descriptor)
            else:
                path.unlink()


def _folder(root: Path, name: str) -> Path:
    """The model's own folder, made where there is none."""
    check_name(name)
    folder = root / name
    folder.mkdir(exist_ok=True)
    _check_inside(root, folder)
    _sync(root)
    return folder


def _check_inside(root: Path, folder: Path) -> None:
    if not folder.resolve().is_relative_to(root.resolve()):
        raise PermissionError(f"'{folder.name}' is a link to a folder elsewhere")


def _numbers(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir() if VERSION.fullmatch(path.name)]


def _remove(root: Path, path: Path) -> None:
    """Out of sight in one step, then gone."""
    going = root / f"{REMOVED}{uuid.uuid4().hex}"
    try:
        path.rename(going)
    except (FileNotFoundError, NotADirectoryError):
        return
    with suppress(FileNotFoundError):  # swept away meanwhile
        if going.is_dir() and not going.is_symlink():
            shutil.rmtree(going)
        else:
            going.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
