"""From files of the models folder to predictors, settings, labels and samples, each read once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import ModelError, OtherFileError
from lipmodel.network.reader.read import read_onnx
from service.models.checks import Checks, File
from service.models.layout import ACCEPTED_NAMES, NAME, VERSION, Found, Slot
from service.models.samples import Samples, read_samples
from service.models.settings import SettingsFile, parse_settings

MAX_TEXT_BYTES = 2**16
"""Of settings or labels."""


class UncheckedError(Exception):
    """A file on whose digest there is no verdict yet.

    Attributes:
        file: the file.
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
    """The model of a file, ready to answer; one that is known by its digest already is taken as it is.

    Raises:
        ModelError: it is refused.
        UncheckedError: it is yet to be checked; nothing of it but its digest was read.
    """
    if not NAME.fullmatch(slot.name):
        raise ModelError(f"the name of the file cannot name a model; {ACCEPTED_NAMES}")
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


def load_settings(found: Found, root: Path) -> SettingsFile:
    """Settings from their file.

    Raises:
        ModelError: it cannot be read, or something in it is not accepted.
    """
    return parse_settings(_text(found, root, "settings"))


def load_labels(found: Found, root: Path) -> Mapping[str, str]:
    """Versions by label, from their file.

    Raises:
        ModelError: it cannot be read as that.
    """
    try:
        labels = json.loads(_text(found, root, "labels"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"its labels cannot be read as JSON: {error}") from error
    if not isinstance(labels, dict) or not all(
        is_label(label) and isinstance(version, str) and VERSION.fullmatch(version)
        for label, version in labels.items()
    ):
        raise ModelError('its labels are not understood; an object such as {"canary": "2"} is accepted')
    return labels


def load_samples(found: Found, root: Path) -> Samples:
    """Samples from their file.

    Raises:
        ModelError: it cannot be read as that.
    """
    return read_samples(found.place(root))


def is_label(text: str) -> bool:
    """Whether this can be a label: what can name a model, and is no number."""
    return NAME.fullmatch(text) is not None and not text.isdecimal()


def _text(found: Found, root: Path, what: str) -> bytes:
    path = found.place(root)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise ModelError(f"its {what} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_TEXT_BYTES:
        raise ModelError(f"its {what} are longer than {MAX_TEXT_BYTES} bytes")
    return content
