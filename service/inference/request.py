"""Requests for predictions: options, decoded inputs, and questions that fit a model."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from lipmodel.errors import InputError
from lipmodel.norms import Array
from lipmodel.threat import BALLS, Threat
from service.inference.engine import is_long
from service.models.registry import Model
from service.wire import AnyArray, NormOfRadius, Wire


def _parse_object(value: Any) -> Any:
    """Return the object that a text of JSON describes, as in a query; other values unchanged."""
    if isinstance(value, str) and value.startswith("{"):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


class ThreatOptions(Wire):
    """The norm or the threat set that a request gives."""

    norm: NormOfRadius | None = None
    threat: Annotated[str | dict[str, Any] | None, BeforeValidator(_parse_object)] = Field(
        default=None,
        description="Threat set of the radius, in place of a norm: a name from the model's 'threats', or an "
        "object with 'norm' and 'scale', the size of one unit of change for each column. The scale is a "
        "number, a list, or an object by column ('*': the others); a column with the scale 0 never changes.",
        examples=["clerical", {"norm": "inf", "scale": {"age": 2, "capital-gain": 1000, "*": 0}}],
    )


class PredictOptions(ThreatOptions):
    """Options of a prediction."""

    epsilon: float | None = Field(
        default=None,
        ge=0,
        description="Size of change that 'certified' answers for, in the units of the input or of 'threat'.",
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


def requested_threat(model: Model, options: ThreatOptions) -> Threat | None:
    """Return the threat set that a request gives, by a norm, a name or a description; None if it gives none.

    Raises:
        InputError: both a norm and a threat set, a name that the model does not have, or a threat set that
            does not fit its columns.
    """
    if options.threat is None:
        return None if options.norm is None else BALLS[options.norm]
    if options.norm is not None:
        raise InputError("is given beside 'norm'; a threat set has a norm of its own", field="threat")
    if isinstance(options.threat, dict):
        return model.predictor.parse_threat(options.threat)
    named = model.settings.threats.get(options.threat)
    if named is None:
        known = ", ".join(f"'{name}'" for name in model.settings.threats) or "none"
        raise InputError(f"'{options.threat:.60}' is unknown; this model has {known}", field="threat")
    return named


class Question(NamedTuple):
    """Inputs that fit a model, and the threat set to certify them for.

    Attributes:
        model: that answers.
        inputs: (N, d) finite numbers.
        threat: of the radii.
        options: of the prediction.
        caller: identity; long work of different callers takes turns.
        context: of the decoded request.
    """

    model: Model
    inputs: Array
    threat: Threat
    options: PredictOptions
    caller: str
    context: Any = None

    @property
    def long(self) -> bool:
        """Return whether a thread answers, so that the client may leave before the response."""
        return self.options.slow or is_long(self.model, self.inputs)
