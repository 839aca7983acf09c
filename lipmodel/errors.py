"""Every error that Lipcert raises on purpose.

    LipcertError
    ├── ModelError          an ONNX file that cannot be certified
    │   ├── FileFormatError     not a whole, self-contained ONNX file
    │   │   └── OtherFileError          not the file that was asked for
    │   └── UnsupportedError    a node or a shape about which nothing is proved
    ├── InputError          inputs that do not fit the model
    ├── CertificateError    a file that cannot be read as a certificate
    ├── SignatureError      a signed certificate, or a set of keys, that is not to be trusted
    ├── DataError           a data set that cannot be read as one
    ├── RecipeError         a recipe or an option of training that makes no sense
    ├── TrainingError       training that failed (a loss that is not a number, …)
    │   └── TrainingInterruptedError    training that was asked to end before it was done
    └── MissingExtraError   an optional part of the package is not installed

Each message says what was wrong and what is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LipcertError(Exception):
    """Base of all errors raised on purpose; its text is fit to show to a user."""


LONGEST_REASON = 1_000
"""Characters of a message about a file, which may quote long lists and texts of it."""


class ModelError(LipcertError):
    """An ONNX file that cannot be certified; it is refused, never guessed at."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}…")


class FileFormatError(ModelError):
    """The bytes are not a whole, self-contained ONNX model."""


class OtherFileError(FileFormatError):
    """A file whose digest is not the expected one: it was replaced."""


class UnsupportedError(ModelError):
    """A part of the graph about which nothing is proved.

    Attributes:
        node: the node's name (or its first output's), empty when no node is to blame.
        op: its ONNX operator, empty likewise.
        reason: what is unsupported, and what is accepted in its place.
    """

    def __init__(self, reason: str, *, node: str = "", op: str = "") -> None:
        reason = reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}…"
        where = f"node '{node}' ({op}): " if op else ""
        super().__init__(where + reason)
        self.node, self.op, self.reason = node, op, reason


@contextmanager
def refusing_exhaustion() -> Iterator[None]:
    """Refuse a file whose reading or bounding takes more memory or deeper recursion than there is.

    Raises:
        UnsupportedError: in place of MemoryError, RecursionError or OverflowError.
    """
    try:
        yield
    except (MemoryError, RecursionError, OverflowError) as error:
        raise UnsupportedError(
            f"it takes more than this process has ({type(error).__name__}: {error}); a smaller network, or "
            "one with fewer and smaller tensors, is accepted"
        ) from error


def about_field(field: str, reason: str) -> str:
    """Return "inputs[0] has 3 values" for a reason that is a predicate, "data: no such file" for others."""
    predicate = reason.startswith(("is ", "are ", "has ", "names "))
    return f"{field} {reason}" if predicate else f"{field}: {reason}"


class InputError(LipcertError):
    """Inputs that do not fit the model.

    Attributes:
        field: which part of the input, in the caller's terms (``inputs[3]``).
    """

    def __init__(self, reason: str, *, field: str = "inputs") -> None:
        super().__init__(about_field(field, reason))
        self.field, self.reason = field, reason


class CertificateError(LipcertError):
    """A file that cannot be read as a certificate; one that is read and does not hold is no error.

    Attributes:
        field: the member that is wrong (``rivals[2].bound_error``), empty where it is the whole.
    """

    def __init__(self, reason: str, *, field: str = "") -> None:
        super().__init__(f"certificate, {field}: {reason}" if field else f"certificate: {reason}")
        self.field, self.reason = field, reason


class SignatureError(LipcertError):
    """A signed certificate that is not to be trusted, or keys that cannot be used."""


class DataError(LipcertError):
    """A data set that is missing, malformed or not what it claims to be."""


class RecipeError(LipcertError):
    """A recipe, or an option given beside it, that makes no sense."""


class TrainingError(LipcertError):
    """Training that could not go on, or whose result did not keep its promise."""


class TrainingInterruptedError(TrainingError):
    """Training that was asked to end before it was done.

    Attributes:
        checkpoint: the file that it can go on from; None if there is none.
    """

    def __init__(self, epoch: int, epochs: int, checkpoint: Path | None) -> None:
        saved = "nothing is saved" if checkpoint is None else f"{checkpoint} holds all of it"
        super().__init__(f"interrupted in epoch {epoch} of {epochs}; {saved}")
        self.checkpoint = checkpoint


class MissingExtraError(LipcertError):
    """An optional part of the package is needed and not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the optional part '{extra}': pip install 'lipcert[{extra}]'")
