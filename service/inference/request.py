"""Requests for predictions: options, inputs as decoded, and questions that fit a model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.wire import NormOfRadius, Wire


class PredictOptions(Wire):
    """What may be asked beside the inputs."""

    norm: NormOfRadius | None = None
    epsilon: float | None = Field(
        default=None, ge=0, description="Size of change that 'certified' answers for, in input units."
    )
    tighten: bool = Field(
        default=False,
        description="Prove larger radii, by mixtures of scores and local bounds; milliseconds an input, of "
        "large networks as far as the setting tighten_seconds allows.",
    )
    portable: bool = Field(
        default=False, description="Also give the radius that holds for every conforming runtime."
    )
    certificate: bool = Field(
        default=False, description="Also sign each answer, for others to verify; see /.well-known/jwks.json."
    )

    @property
    def slow(self) -> bool:
        """Whether more than predictions is asked for."""
        return self.tighten or self.portable or self.certificate


class InputWarning(Wire):
    """A reason to doubt that inputs are what the model was trained for. Certificates hold all the same."""

    kind: Literal["outside-input-box"] = Field(
        default="outside-input-box",
        description="A number lies beyond the model's input_box by more than the width of that box.",
    )
    detail: str = Field(description="The same in words.")
    inputs: list[int] = Field(description="Which inputs, counted from 0.")
