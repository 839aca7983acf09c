"""Responses of the service as dataclasses; unknown members, of newer services, are ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

R = TypeVar("R")


def read(kind: type[R], answer: Mapping[str, Any]) -> R:
    """Return a response's object as a dataclass; missing members take the class's defaults."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in answer.items() if name in known})


@dataclass(frozen=True)
class ModelReference:
    """The model of a response.

    Attributes:
        name: name of the model.
        version: its version.
        sha256: digest of the ONNX file.
    """

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Prediction:
    """The prediction for one input.

    Attributes:
        label: name of the class; None if the model's policy abstains.
        label_index: index of the class; None if the model's policy abstains.
        scores: one score per class; a single score for a binary classifier.
        margin: score of the label minus the score of the next class.
        certified_radius: radius within which no change of the input changes the label; 0 certifies nothing.
        runner_up: the class that limits the radius.
        norm: norm of the radius, "1", "2" or "inf".
        method: origin of the radius: "lipschitz", "mixture", "box" or "local".
        certified: whether the radius is positive and at least the requested epsilon; None without an epsilon.
        radius_float32_portable: the radius for every conforming runtime, if requested.
        certificate: the signed certificate as a compact JWS, if requested.
        abstained: whether the policy withholds the label.
        tightening_complete: whether the search for a larger radius ran to its end; None without a search.
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
    """A warning that inputs may differ from the training data. Certificates hold regardless.

    Attributes:
        kind: "outside-input-box": far outside of the input range stated in the model's file.
        detail: the warning in words.
        inputs: indices of the inputs concerned.
    """

    kind: str
    detail: str
    inputs: list[int]


@dataclass(frozen=True)
class Predictions(Sequence[Prediction]):
    """The predictions for the inputs, in order.

    Attributes:
        model: the model.
        predictions: one prediction per input.
        warnings: warnings about the inputs.
        execution: "float64" or "float32", the number format for which labels and radii are certified; None
            from older services.
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
    """A model of the service.

    Attributes:
        name: name of the model.
        status: "served"; or "refused" or "checking" (not yet served), with a reason.
        version: version of the model, if served.
        sha256: digest of the ONNX file, if served.
        reason: reason of a refusal or check.
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
        id: id of the job.
        kind: "audit" or "evaluation".
        state: "queued", "running", "done", "failed", "cancelled" or "interrupted".
        progress: share done, from 0 to 1.
        parameters: parameters of the job.
        seconds_left: estimated remaining time, if known.
        result: the report of a completed job.
        problem: cause of a failure or interruption, as an RFC 9457 problem.
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
        """True for a job that is neither queued nor running."""
        return self.state not in ("queued", "running")
