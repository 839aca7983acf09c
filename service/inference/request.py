"""Requests for predictions: options, decoded inputs, and questions that fit a model."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import Field

from lipmodel.norms import Array, Norm
from service.inference.engine import is_long
from service.models.registry import Model
from service.wire import AnyArray, NormOfRadius, Wire


class PredictOptions(Wire):
    """Options of a prediction."""

    norm: NormOfRadius | None = None
    epsilon: float | None = Field(
        default=None, ge=0, description="Size of change that 'certified' answers for, in input units."
    )
    tighten: bool = Field(
        default=False,
        description="Prove larger radii, by mixtures of scores and local bounds. Takes milliseconds an "
        "input, for large networks up to the setting tighten_seconds.",
    )
    portable: bool = Field(
        default=False, description="Also return the radius that holds for every conforming runtime."
    )
    certificate: bool = Field(
        default=False, description="Also sign each answer, for others to verify; see /.well-known/jwks.json."
    )

    @property
    def slow(self) -> bool:
        """Return whether any option takes longer than a plain prediction."""
        return self.tighten or self.portable or self.certificate


class InputWarning(Wire):
    """A reason to suspect that inputs differ from the training data. Certificates hold all the same."""

    kind: Literal["outside-input-box"] = Field(
        default="outside-input-box",
        description="A number lies outside the model's input_box by more than the width of that box.",
    )
    detail: str = Field(description="The warning in words.")
    inputs: list[int] = Field(description="Indices of the inputs, from 0.")


class DecodedRequest(NamedTuple):
    """Inputs and options as a protocol decoded them, not yet checked against the model.

    Attributes:
        inputs: (N, …) numbers, in the shape that was sent.
        options: of the prediction.
        context: data that the protocol needs to encode the response; None for none.
    """

    inputs: AnyArray
    options: PredictOptions
    context: Any = None


class Question(NamedTuple):
    """Inputs that fit a model, and the norm to certify them in.

    Attributes:
        model: that answers.
        inputs: (N, d) finite numbers.
        norm: of the radii.
        options: of the prediction.
        caller: identity; long work of different callers takes turns.
        context: of the decoded request.
    """

    model: Model
    inputs: Array
    norm: Norm
    options: PredictOptions
    caller: str
    context: Any = None

    @property
    def long(self) -> bool:
        """Return whether a thread answers, so that the client may leave before the response."""
        return self.options.slow or is_long(self.model, self.inputs)
