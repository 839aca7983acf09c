"""Layout of the models folder: the files of each model, and fingerprints that show changes.

::

    NAME.onnx               version 1, and where there are no others the only one
    NAME.toml               settings
    NAME/2/model.onnx       version 2
    NAME/2/force            makes version 2 the default though its inputs, classes or norm are others
    NAME/model.toml         settings, instead of NAME.toml
    NAME/labels.json        labels, written by the service: {"canary": "2"}
    NAME.samples.npz        inputs to show and try, see :mod:`service.models.samples`
    NAME/samples.npz        samples, instead of NAME.samples.npz

Names that begin with a dot are skipped: files are written under such names, and moved when complete.
"""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lipmodel.errors import ModelError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
MODEL_FILE, SETTINGS_FILE, LABELS_FILE = "model.onnx", "model.toml", "labels.json"
SAMPLES_FILE, FORCE_FILE = "samples.npz", "force"
SETTINGS, LABELS, SAMPLES = "settings", "labels", "samples"
PARTS = {SETTINGS_FILE: SETTINGS, LABELS_FILE: LABELS, SAMPLES_FILE: SAMPLES}
MAX_REASON = 500
ACCEPTED_NAMES = "up to 64 ASCII letters, digits, '.', '_', '-' are accepted, the first a letter or digit"


class Slot(NamedTuple):
    """One part of a model: a version, its settings, labels or samples.

    Attributes:
        name: of the model.
        part: number of the version, "settings", "labels" or "samples".
    """

    name: str
    part: str

    def __str__(self) -> str:
        return f"version {self.part}" if VERSION.fullmatch(self.part) else self.part


Stamp = tuple[str, int, int, int, int]
"""Path, inode, size, mtime and ctime of a file."""
Fingerprint = tuple[Stamp, ...]
"""Stamps of a slot's files; different once any of them was written, replaced, added or removed."""


@dataclass(frozen=True)
class Found:
    """Files found for a slot.

    Attributes:
        places: paths of the slot's file; more than one is a mistake.
        companions: files beside it that may hold its weights.
        fingerprint: of all of them.
    """

    places: tuple[Path, ...]
    companions: tuple[Path, ...]
    fingerprint: Fingerprint

    @property
    def size(self) -> int:
        """Bytes in the first of the places."""
        return self.fingerprint[0][2]

    def changed(self) -> bool:
        """Return whether any of the files has changed since the scan."""
        return fingerprint((*self.places, *self.companions)) != self.fingerprint

    def place(self, root: Path) -> Path:
        """Return the path of the slot's one file, its links resolved.

        A link that leads out of the folder is refused: by such a link, anyone with write access to the
        folder could make the service read files that only the service may read. Links within the folder
        are followed: volumes are mounted by them (``..data``).

        Raises:
            ModelError: there are two files or none, or the file is outside of the folder or not regular.
        """
        if len(self.places) > 1:
            both = " and ".join(sorted(str(path.relative_to(root)) for path in self.places))
            raise ModelError(f"{both} both exist; remove one of them")
        try:
            target = Path(os.path.realpath(self.places[0], strict=True))  # circular links raise OSError
            if not target.is_relative_to(root.resolve()):
                raise ModelError(
                    "it is a link to a file outside the models folder; copy the file itself into it"
                )
            if not target.is_file():  # a pipe would block for ever
                raise ModelError("it is not a regular file")
            return target
        except OSError as error:
            raise ModelError(f"the file cannot be read: {error.strerror or error}") from error


def scan(root: Path) -> dict[Slot, Found]:
    """Return the files of the models in a folder, by slot, without opening any file.

    Raises:
        OSError: the folder cannot be read.
    """
    places: dict[Slot, list[Path]] = defaultdict(list)
    companions: dict[Slot, list[Path]] = defaultdict(list)
    names = sorted(name for name in os.listdir(root) if not name.startswith("."))
    for name in names:
        path = root / name
        if path.suffix == ".onnx":
            slot = Slot(path.stem, "1")
            places[slot].append(path)
            companions[slot] += [root / other for other in _companions(names, name)]
        elif path.suffix == ".toml":
            places[Slot(path.stem, SETTINGS)].append(path)
        elif name.endswith(f".{SAMPLES_FILE}"):
            places[Slot(name.removesuffix(f".{SAMPLES_FILE}"), SAMPLES)].append(path)
        elif path.is_dir():
            _scan_versions(path, places, companions)
    known = {slot.name for slot in places if VERSION.fullmatch(slot.part)}
    return {
        Slot(printable(slot.name), slot.part): Found(
            tuple(found), tuple(companions[slot]), fingerprint((*found, *companions[slot]))
        )
        for slot, found in places.items()
        if slot.name in known
    }


def _companions(names: list[str], name: str) -> list[str]:
    """Return the weight files of a model's file among sorted names: they begin with its name and a dot."""
    first, after = bisect_left(names, f"{name}."), bisect_left(names, f"{name}/")  # "/" follows "."
    return [other for other in names[first:after] if not other.endswith((".onnx", ".toml"))]


def _scan_versions(path: Path, places: dict[Slot, list[Path]], companions: dict[Slot, list[Path]]) -> None:
    for child in _listed(path):
        if VERSION.fullmatch(child) and (path / child).is_dir():
            slot = Slot(path.name, child)
            places[slot].append(path / child / MODEL_FILE)
            companions[slot] += [
                path / child / other for other in _listed(path / child) if other != MODEL_FILE
            ]
        elif child in PARTS:
            places[Slot(path.name, PARTS[child])].append(path / child)


def _listed(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:  # removed since, or not readable
        return []


def fingerprint(paths: tuple[Path, ...]) -> Fingerprint:
    """Return inode, size, mtime and ctime of each file."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except (OSError, ValueError):  # a dangling link
        return (str(path), -1, -1, -1, -1)
    return (str(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def files_digest(found: Mapping[Slot, Found], name: str) -> str | None:
    """Return a digest that changes with any file of a model; None where it has no files."""
    fingerprints = sorted((slot, f.fingerprint) for slot, f in found.items() if slot.name == name)
    return hashlib.sha256(ascii(fingerprints).encode()).hexdigest() if fingerprints else None


def printable(text: str) -> str:
    """Return text that is valid in JSON, from text that may contain arbitrary bytes of a file."""
    text = text.encode("utf-8", "replace").decode()  # lone surrogates become question marks
    return text if len(text) <= MAX_REASON else text[:MAX_REASON] + "…"
