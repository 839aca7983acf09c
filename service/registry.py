"""A folder of ONNX files → models that are served, and files that are refused with the reason.

The service starts whatever the folder holds. A registry never changes once made: another state of
the folder is another registry, so a request sees one or the other and no mixture.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import LipcertError, ModelError
from lipmodel.norms import Norm

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
MAX_REASON = 500
FEW_SCORES = 512
"""Up to so many scores a model is made ready for all norms at load; beyond, only for its own."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Model:
    """A model that is served.

    Attributes:
        name: the file's name without ``.onnx``.
        version: which of the files under this name; there is one.
        predictor: the model itself, ready to answer in its own norm and mostly in all.
        multiplications: of numbers, for one input; a measure of how long an answer takes.
    """

    name: str
    version: str
    predictor: CertifiedPredictor
    multiplications: int


@dataclass(frozen=True)
class Registry:
    """What a folder held when it was read.

    Attributes:
        served: models by name.
        refused: reasons by name.
        fault: what is wrong with the folder itself, or None.
    """

    served: Mapping[str, Model]
    refused: Mapping[str, str]
    fault: str | None


def read_folder(folder: Path, *, threads: int = 1) -> Registry:
    """Loads every ``*.onnx`` file directly in the folder; raises nothing, whatever they are.

    Args:
        folder: may be missing.
        threads: that onnxruntime uses within one operator.
    """
    served: dict[str, Model] = {}
    refused: dict[str, str] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".onnx")
    except OSError as error:
        return Registry({}, {}, f"the models folder cannot be read: {error.strerror or error}")
    for path in paths:
        name = printable(path.stem)
        try:
            served[name] = _load(path, threads)
        except LipcertError as error:
            refused[name] = printable(str(error))
        except Exception as error:  # one file must not keep the others from being served
            log.exception("refused %s", name)
            refused[name] = f"it cannot be read; {type(error).__name__} was raised, the log has more"
    return Registry(served, refused, None if paths else "the models folder holds no *.onnx file")


def printable(text: str) -> str:
    """Text that can be written as JSON, whatever bytes a file's name or content put into it."""
    text = text.encode("utf-8", "replace").decode()  # lone surrogates become question marks
    return text if len(text) <= MAX_REASON else text[:MAX_REASON] + "…"


def _load(path: Path, threads: int) -> Model:
    if not NAME.fullmatch(path.stem):
        raise ModelError(
            "the name of the file cannot name a model; up to 64 ASCII letters, digits, '.', '_', '-' are "
            "accepted, the first a letter or digit"
        )
    predictor = CertifiedPredictor(_checked(path), threads=threads)
    for norm in Norm:
        if norm is predictor.default_norm or len(predictor.head.owners) <= FEW_SCORES:
            predictor.prepare(norm)
        if not math.isfinite(predictor.bounds(norm).bound_global):
            raise ModelError(f"its Lipschitz bound in norm {norm} overflows, so nothing can be certified")
    return Model(path.stem, "1", predictor, predictor.file.graph.multiplications)


def _checked(path: Path) -> Path:
    """The file itself, behind whatever links.

    A link out of the folder is not followed: whoever may write links there could else have the
    service read what only the service may read. Links within the folder are how volumes are
    mounted (``..data``), and are.
    """
    try:
        target = path.resolve(strict=True)
        if not target.is_relative_to(path.parent.resolve()):
            raise ModelError("it is a link to a file outside the models folder; put the file itself there")
        if not target.is_file():  # a pipe would block for ever
            raise ModelError("it is not a regular file")
        return target
    except OSError as error:
        raise ModelError(f"the file cannot be read: {error.strerror or error}") from error
