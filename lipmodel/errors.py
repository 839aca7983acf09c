"""The exceptions of Lipcert.

    LipcertError
    ├── ModelError          an ONNX file that cannot be certified
    │   ├── FileFormatError     not a complete, self-contained ONNX file
    │   │   └── OtherFileError          not the expected file
    │   └── UnsupportedError    a node or a shape without a proof rule
    ├── InputError          inputs that do not fit the model
    ├── CertificateError    a file that cannot be read as a certificate
    ├── SignatureError      an untrusted signed certificate, or unusable keys
    ├── DataError           a data set that cannot be read
    ├── RecipeError         an invalid recipe or training option
    ├── TrainingError       failed training (a loss that is not finite, …)
    │   └── TrainingInterruptedError    training interrupted by request
    └── MissingExtraError   an optional dependency that is not installed

Each message names the invalid value and the accepted values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LipcertError(Exception):
    """Base class of Lipcert's errors; the message may be shown to users."""


MAX_REASON = 1_000
"""Characters of a message about a file, which may quote long lists and texts from the file."""


class ModelError(LipcertError):
    """An ONNX file that cannot be certified and is refused."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}…")


class FileFormatError(ModelError):
    """Content that is not a complete, self-contained ONNX model."""


class OtherFileError(FileFormatError):
    """A file with an unexpected digest: the file was replaced."""


class UnsupportedError(ModelError):
    """A part of the graph without a proof rule.

    Attributes:
        node: name of the node (or of its first output); empty if the error is not about one node.
        op: ONNX operator of the node; empty if the error is not about one node.
        reason: the unsupported property and the accepted alternatives.
    """

    def __init__(self, reason: str, *, node: str = "", op: str = "") -> None:
        reason = reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}…"
        where = f"node '{node}' ({op}): " if op else ""
        super().__init__(where + reason)
        self.node, self.op, self.reason = node, op, reason


@contextmanager
def refusing_exhaustion() -> Iterator[None]:
    """Refuse a file when reading or bounding it exhausts memory or the recursion limit.

    Raises:
        UnsupportedError: in place of MemoryError, RecursionError or OverflowError.
    """
    try:
        yield
    except (MemoryError, RecursionError, OverflowError) as error:
        raise UnsupportedError(
            f"the network exceeds this process's limits ({type(error).__name__}: {error}); a network of "
            "fewer and smaller tensors is accepted"
        ) from error


def about_field(field: str, reason: str) -> str:
    """Return "inputs[0] has 3 values" for a reason that is a predicate, "data: no such file" for others."""
    predicate = reason.startswith(("is ", "are ", "has ", "must ", "names "))
    return f"{field} {reason}" if predicate else f"{field}: {reason}"


class InputError(LipcertError):
    """Inputs that do not fit the model.

    Attributes:
        field: the invalid part of the input, in the caller's terms (``inputs[3]``).
    """

    def __init__(self, reason: str, *, field: str = "inputs") -> None:
        super().__init__(about_field(field, reason))
        self.field, self.reason = field, reason


class CertificateError(LipcertError):
    """A file that cannot be read as a certificate. A readable certificate that does not hold is no error.

    Attributes:
        field: the invalid member (``rivals[2].bound_error``); empty if the whole file is invalid.
    """

    def __init__(self, reason: str, *, field: str = "") -> None:
        super().__init__(f"certificate, {field}: {reason}" if field else f"certificate: {reason}")
        self.field, self.reason = field, reason


class SignatureError(LipcertError):
    """An untrusted signed certificate, or unusable keys."""


class DataError(LipcertError):
    """A data set that is missing, malformed, or different from its description."""


class RecipeError(LipcertError):
    """An invalid recipe or training option."""


class TrainingError(LipcertError):
    """Failed training, or a trained network without the required bound."""


class TrainingInterruptedError(TrainingError):
    """Training interrupted by request.

    Attributes:
        checkpoint: the file from which the training can be resumed; None without one.
    """

    def __init__(self, epoch: int, epochs: int, checkpoint: Path | None) -> None:
        saved = "nothing was saved" if checkpoint is None else f"the state is saved in {checkpoint}"
        super().__init__(f"interrupted in epoch {epoch} of {epochs}; {saved}")
        self.checkpoint = checkpoint


class MissingExtraError(LipcertError):
    """An optional dependency is required and not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} requires an optional dependency: pip install 'lipcert[{extra}]'")
