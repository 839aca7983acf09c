"""What the Open Inference Protocol v2 sends and gets. Strict, as the types of our own protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from service.inference.request import PredictOptions
from service.models.settings import Execution
from service.wire import EXECUTION, MAX_DIMENSIONS, MAX_LENGTH, Wire

Size = Annotated[int, Field(ge=0, le=MAX_LENGTH)]


class TensorParameters(Wire):
    """How a tensor is sent."""

    binary_data_size: Size | None = Field(default=None, description="Bytes of it, after the JSON.")


class InputTensor(Wire):
    """The inputs of a request; numbers in row-major order, flat or nested."""

    name: str
    shape: list[Size] = Field(min_length=1, max_length=MAX_DIMENSIONS)
    datatype: Literal["FP32", "FP64"] = Field(description="FP32 numbers are taken as float32 rounds them.")
    parameters: TensorParameters = TensorParameters()
    data: list[Any] | None = None


class OutputParameters(Wire):
    """How an output is wanted."""

    binary_data: bool | None = None


class WantedOutput(Wire):
    """An output that is wanted."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferParameters(PredictOptions):
    """What may be asked beside the inputs."""

    binary_data_output: bool = Field(default=False, description="Whether outputs are binary unless they say.")


class InferRequest(Wire):
    """Inputs to classify, by the Open Inference Protocol."""

    id: str | None = None
    parameters: InferParameters = InferParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[WantedOutput] | None = Field(None, max_length=100)


class OutputTensor(Wire):
    """One output of every input; binary ones have no data here."""

    name: str
    datatype: Literal["FP64", "INT64", "BOOL", "BYTES"]
    shape: list[int]
    parameters: TensorParameters | None = None
    data: list[Any] | None = None


class InferResponseParameters(Wire):
    """Parameters of a response, beside its outputs."""

    execution: Execution = Field(description=EXECUTION)
    warnings: str | None = Field(
        default=None, description="About the inputs, in words; only where there is a warning."
    )


class InferResponse(Wire):
    """Outputs, in the order asked for."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: InferResponseParameters
    outputs: list[OutputTensor]


class ServerMetadata(Wire):
    """Who answers."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Wire):
    """A tensor of a model; -1 stands for any number of inputs."""

    name: str
    datatype: Literal["FP32", "FP64", "INT64", "BOOL", "BYTES"]
    shape: list[int]


class ModelMetadata(Wire):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(Wire):
    """The model answers."""

    name: str
    ready: Literal[True] = True


class IndexRequest(Wire):
    """Which models to list."""

    ready: bool = Field(default=False, description="Only those that answer.")


class IndexEntry(Wire):
    """A version of a model in the folder."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class LoadRequest(Wire):
    """Nothing can be set about loading."""

    parameters: dict[str, Any] = Field(default={}, max_length=0)


class UnloadParameters(Wire):
    """As Triton's clients send them."""

    unload_dependents: bool = Field(default=False, description="No model has any.")


class UnloadRequest(Wire):
    """What Triton's clients send to unload."""

    parameters: UnloadParameters = UnloadParameters()
