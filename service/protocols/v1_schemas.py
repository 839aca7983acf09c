"""Wire types of predict requests and responses, and the reference to a model that others share."""

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
    """The answer to one input, and how far from it the answer is proved to stay the same."""

    label: str | None = Field(description="Name of the class of the largest score; null in an abstention.")
    label_index: int | None = Field(
        description="Its index among the classes, and in 'scores' where there is one score a class."
    )
    abstained: bool = Field(
        description="Whether the model's policy withholds the label, as too small a radius is certified."
    )
    scores: list[float] = Field(
        description="One a class; a binary classifier has one, and answers class 1 where it is positive."
    )
    margin: float = Field(
        description="The answer's score less the next class's, rounded down; of a binary classifier, |score|."
    )
    certified_radius: float = Field(
        description="No change of the input within this distance changes the label, rounding of the "
        "execution included. 0: nothing is certified."
    )
    method: Literal["lipschitz", "mixture", "local"] = Field(
        description="What the radius comes from: constants of the largest score against each other, or of "
        "mixtures of the scores of its class, or bounds local to a ball."
    )
    radius_float32_portable: float | None = Field(
        description="The radius for every runtime that evaluates the file as it is, 0 where the file "
        "computes weights from others; null unless asked for."
    )
    runner_up: str = Field(description="The class that limits the radius.")
    norm: Norm = Field(description="Norm of the radius.")
    certified: bool | None = Field(
        description="Whether certified_radius is positive and at least epsilon, the request's or else the "
        "policy's; null without either."
    )
    certificate: str | None = Field(
        description="The answer signed, a compact JWS that `lipmodel verify` takes; null unless asked for."
    )
    tightening_complete: bool | None = Field(
        default=None,
        description="Only with 'tighten': whether the search came to its end. If not, the radius is what was "
        "proved within the setting tighten_seconds, and more time may prove a larger one.",
    )


class ModelReference(Wire):
    """Which file answered."""

    name: str
    version: str
    sha256: str = Field(description="Digest of the ONNX file.")


class PredictResponse(Wire):
    """One prediction for each input, in order."""

    model: ModelReference
    execution: Execution = Field(description=EXECUTION)
    predictions: list[Prediction]
    warnings: list[InputWarning] = Field(description="About the inputs; empty where there is none.")


PREDICT_EXAMPLES: dict[str, dict[str, Any]] = {
    "one input": {"inputs": [[0.5, 0.25]]},
    "two inputs, asked whether a change of 0.1 could matter": {
        "inputs": [[0.5, 0.25], [-1.0, 0.5]],
        "norm": "2",
        "epsilon": 0.1,
    },
}
