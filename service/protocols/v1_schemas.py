"""Wire types of predict requests and responses, and the reference to a model that other types share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lipmodel.norms import Norm
from service.inference.request import InputWarning, PredictOptions
from service.models.settings import Execution
from service.wire import EXECUTION, Rows, Wire


class PredictRequest(PredictOptions):
    """Inputs to classify."""

    inputs: Rows


class Prediction(Wire):
    """The answer to one input, and the radius within which it is proved constant."""

    label: str | None = Field(description="Name of the class with the largest score; null if withheld.")
    label_index: int | None = Field(
        description="Index of the label among the classes, and in 'scores' if these have one score per class."
    )
    abstained: bool = Field(
        description="Whether the model's policy withholds the label: the certified radius is too small."
    )
    scores: list[float] = Field(
        description="One per class; a binary classifier has one score, which is positive for class 1."
    )
    margin: float = Field(
        description="Largest score minus the runner-up's, rounded down; of a binary classifier, |score|."
    )
    certified_radius: float = Field(
        description="No change of the input within this distance changes the label, rounding errors of the "
        "execution included. 0: nothing is certified."
    )
    method: Literal["lipschitz", "mixture", "box", "local"] = Field(
        description="Proof of the radius: by Lipschitz constants of the largest score minus each other "
        "score, by those of mixtures of the scores of its class, by these within the box of a Clip in "
        "front of the model, or by bounds local to a ball."
    )
    radius_float32_portable: float | None = Field(
        description="The radius for every runtime that evaluates the file as it is, 0 where the file "
        "computes weights from others; null unless requested."
    )
    runner_up: str = Field(description="The class that limits the radius.")
    norm: Norm = Field(description="Norm of the radius.")
    certified: bool | None = Field(
        description="Whether certified_radius is positive and at least epsilon (of the request, else of the "
        "policy); null without an epsilon."
    )
    certificate: str | None = Field(
        description="The signed answer, a compact JWS for `lipmodel verify`; null unless requested."
    )
    tightening_complete: bool | None = Field(
        default=None,
        description="Only with 'tighten': whether the search completed. If not, the radius was proved within "
        "the setting tighten_seconds, and more time may prove a larger one.",
    )


class ModelReference(Wire):
    """The model file that answered."""

    name: str
    version: str
    sha256: str = Field(description="Digest of the ONNX file.")


class PredictResponse(Wire):
    """Predictions in the order of the inputs."""

    model: ModelReference
    execution: Execution = Field(description=EXECUTION)
    predictions: list[Prediction]
    warnings: list[InputWarning] = Field(description="About the inputs; empty without warnings.")
    threat: str | dict[str, Any] | None = Field(
        default=None,
        description="Threat set of the radii, as the request or else the model's policy gives it; absent for "
        "the ball of a norm.",
    )


PREDICT_EXAMPLES: dict[str, dict[str, Any]] = {
    "one input": {"inputs": [[0.5, 0.25]]},
    "two inputs, asked whether a change of 0.1 could matter": {
        "inputs": [[0.5, 0.25], [-1.0, 0.5]],
        "norm": "2",
        "epsilon": 0.1,
    },
}
