"""Readers of the files in the models folder: predictors, settings, labels and samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import ModelError, OtherFileError
from lipmodel.network.reader.read import read_onnx
from service.models.checks import Checks, File
from service.models.layout import ACCEPTED_NAMES, LABELS, NAME, SETTINGS, VERSION, Found, Slot
from service.models.samples import Samples, read_samples
from service.models.settings import SettingsFile, parse_settings

MAX_TEXT_BYTES = 2**16
"""Largest file of settings or labels."""


class UncheckedError(Exception):
    """The digest of a file has no verdict yet.

    Attributes:
        file: the file, to be submitted for a check.
    """

    def __init__(self, file: File) -> None:
        super().__init__(file.path)
        self.file = file


def load_version(
    slot: Slot,
    found: Found,
    root: Path,
    known: Mapping[str, CertifiedPredictor],
    threads: int,
    checks: Checks,
) -> CertifiedPredictor:
    """Return the predictor of a version's file, its bounds derived; that of a known digest is not read again.

    Raises:
        ModelError: the file is refused.
        UncheckedError: the file has not been checked yet; only its digest was computed.
    """
    if not NAME.fullmatch(slot.name):
        raise ModelError(f"the file's name is not valid as the name of a model; {ACCEPTED_NAMES}")
    file = checks.look_up(found.place(root))
    if file.digest in known:
        return known[file.digest]
    if file.verdict is None:
        raise UncheckedError(file)
    if file.verdict.reason is not None:
        raise ModelError(file.verdict.reason)
    try:
        content = read_onnx(file.path, sha256=file.digest)
    except OtherFileError:
        raise UncheckedError(file) from None
    return CertifiedPredictor(content, threads=threads).ready()


def load_part(slot: Slot, found: Found, root: Path) -> SettingsFile | Mapping[str, str] | Samples:
    """Return the settings, the versions by label, or the samples in a file.

    Raises:
        ModelError: the file cannot be read, or its content is not accepted.
    """
    path = found.place(root)
    if slot.part == SETTINGS:
        return parse_settings(_text(path, SETTINGS))
    return _labels(_text(path, LABELS)) if slot.part == LABELS else read_samples(path)


def _labels(content: bytes) -> Mapping[str, str]:
    try:
        labels = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"its labels cannot be read as JSON: {error}") from error
    if not isinstance(labels, dict) or not all(
        is_label(label) and isinstance(version, str) and VERSION.fullmatch(version)
        for label, version in labels.items()
    ):
        raise ModelError('its labels are not an object of labels and versions such as {"canary": "2"}')
    return labels


def is_label(text: str) -> bool:
    """Return whether a text is valid as a label: as the name of a model, and not a number."""
    return NAME.fullmatch(text) is not None and not text.isdecimal()


def _text(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise ModelError(f"its {what} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_TEXT_BYTES:
        raise ModelError(f"its {what} exceed the limit of {MAX_TEXT_BYTES} bytes")
    return content
