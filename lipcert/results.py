"""What the service answers. Members that are not known here are passed over: a newer service may be asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

R = TypeVar("R")


def read(kind: type[R], answer: Mapping[str, Any]) -> R:
    """An answer's object as that dataclass; members that the service left out are the class's defaults."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in answer.items() if name in known})


@dataclass(frozen=True)
class ModelReference:
    """Which file answered.

    Attributes:
        sha256: digest of the ONNX file.
    """

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Prediction:
    """The answer to one input.

    Attributes:
        label: name of the class; None where the model's policy abstains.
        label_index: its index, or None likewise.
        scores: one a class; one in all of a binary classifier.
        margin: the answer's score less the next class's.
        certified_radius: no change of the input within it changes the label; 0 certifies nothing.
        runner_up: the class that limits the radius.
        norm: "1", "2" or "inf": of the radius.
        method: what the radius comes from.
        certified: whether the radius is positive and at least the epsilon asked about; None without one.
        radius_float32_portable: the radius for every conforming runtime, where asked for.
        certificate: signed, where asked for: JWS in its compact form.
        abstained: whether the policy withholds the label.
        tightening_complete: whether the search for a larger radius was not cut short; None without one.
    """

    label: str | None
    label_index: int | None
    scores: list[float]
    margin: float
    certified_radius: float
    runner_up: str | None
    norm: str
    method: str = "lipschitz"
    certified: bool | None = None
    radius_float32_portable: float | None = None
    certificate: str | None = None
    abstained: bool = False
    tightening_complete: bool | None = None


@dataclass(frozen=True)
class InputWarning:
    """A reason to doubt that inputs are what the model was trained for. Certificates hold all the same.

    Attributes:
        kind: "outside-input-box": far outside the range that the model's file names for its inputs.
        detail: the same in words.
        inputs: indices of the inputs that it is about.
    """

    kind: str
    detail: str
    inputs: list[int]


@dataclass(frozen=True)
class Predictions(Sequence[Prediction]):
    """One prediction for each input, in order.

    Attributes:
        model: that made them.
        warnings: about the inputs.
        execution: "float64" or "float32", the format whose evaluations labels and radii speak of; None where
            the service is too old to say.
    """

    model: ModelReference
    predictions: tuple[Prediction, ...]
    warnings: tuple[InputWarning, ...] = ()
    execution: str | None = None

    def __getitem__(self, place: Any) -> Any:
        return self.predictions[place]

    def __len__(self) -> int:
        return len(self.predictions)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)


@dataclass(frozen=True)
class ModelSummary:
    """A model of the service's folder.

    Attributes:
        status: "served", or "refused" or (not yet served) "checking" for the reason given.
    """

    name: str
    status: str
    version: str | None = None
    sha256: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Job:
    """An audit or evaluation.

    Attributes:
        kind: "audit" or "evaluation".
        state: "queued", "running", "done", "failed", "cancelled" or "interrupted".
        progress: share done.
        result: the report, once done.
        problem: why it failed or was interrupted, as RFC 9457 writes it.
    """

    id: str
    kind: str
    state: str
    progress: float
    parameters: Mapping[str, Any]
    seconds_left: float | None = None
    result: Mapping[str, Any] | None = None
    problem: Mapping[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state not in ("queued", "running")
