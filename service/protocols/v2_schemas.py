"""Wire types of the Open Inference Protocol v2, as strict as those of the service's own protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from service.inference.request import PredictOptions
from service.models.settings import Execution
from service.wire import EXECUTION, MAX_DIMENSIONS, MAX_LENGTH, Wire

Size = Annotated[int, Field(ge=0, le=MAX_LENGTH)]


class TensorParameters(Wire):
    """Encoding of a tensor."""

    binary_data_size: Size | None = Field(default=None, description="Number of its bytes after the JSON.")


class InputTensor(Wire):
    """The inputs of a request; numbers in row-major order, flat or nested."""

    name: str
    shape: list[Size] = Field(min_length=1, max_length=MAX_DIMENSIONS)
    datatype: Literal["FP32", "FP64"] = Field(description="FP32 numbers are rounded to float32.")
    parameters: TensorParameters = TensorParameters()
    data: list[Any] | None = None


class OutputParameters(Wire):
    """Encoding of a requested output."""

    binary_data: bool | None = None


class WantedOutput(Wire):
    """A requested output."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferParameters(PredictOptions):
    """Options of a request."""

    binary_data_output: bool = Field(default=False, description="Whether outputs are binary by default.")


class InferRequest(Wire):
    """Inputs to classify by the Open Inference Protocol."""

    id: str | None = None
    parameters: InferParameters = InferParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[WantedOutput] | None = Field(None, max_length=100)


class OutputTensor(Wire):
    """One output for all inputs; the data of a binary output follows the JSON."""

    name: str
    datatype: Literal["FP64", "INT64", "BOOL", "BYTES"]
    shape: list[int]
    parameters: TensorParameters | None = None
    data: list[Any] | None = None


class InferResponseParameters(Wire):
    """Parameters of a response."""

    execution: Execution = Field(description=EXECUTION)
    warnings: str | None = Field(
        default=None, description="Warnings about the inputs, in words; missing without warnings."
    )


class InferResponse(Wire):
    """Outputs in the order requested."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: InferResponseParameters
    outputs: list[OutputTensor]


class ServerMetadata(Wire):
    """Name, version and extensions of the server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Wire):
    """A tensor of a model; -1 stands for any number of inputs."""

    name: str
    datatype: Literal["FP32", "FP64", "INT64", "BOOL", "BYTES"]
    shape: list[int]


class ModelMetadata(Wire):
    """Inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(Wire):
    """A model that is served."""

    name: str
    ready: Literal[True] = True


class IndexRequest(Wire):
    """Filter of the models to list."""

    ready: bool = Field(default=False, description="List served versions only.")


class IndexEntry(Wire):
    """One version of a model in the folder."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class LoadRequest(Wire):
    """Parameters of a load request; none are supported."""

    parameters: dict[str, Any] = Field(default={}, max_length=0)


class UnloadParameters(Wire):
    """Parameters of an unload request, as sent by Triton's clients."""

    unload_dependents: bool = Field(default=False, description="Has no effect: no model has dependents.")


class UnloadRequest(Wire):
    """An unload request, as sent by Triton's clients."""

    parameters: UnloadParameters = UnloadParameters()
