"""Open Inference Protocol v2 (KServe, Triton): tensors in JSON or binary, certified radii as an output.

A request is a JSON object, followed by the bytes of those tensors that have ``binary_data_size``; the header
``Inference-Header-Content-Length`` gives the length of the JSON. Responses are encoded likewise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
import simdjson

from lipmodel.errors import InputError
from service.inference.pipeline import WITHHELD, Answers
from service.inference.request import DecodedRequest
from service.models.registry import Model
from service.problems import Problem, ProblemKind
from service.protocols.arrays import brackets, shaped
from service.protocols.bodies import FILE_TYPE, JSON_TYPE, check_values, header, parse
from service.protocols.protocol import Codec, Payload
from service.protocols.v2_schemas import InferRequest, InputTensor
from service.wire import AnyArray, Header

LENGTH = "Inference-Header-Content-Length"
LENGTH_NAME = LENGTH.lower().encode()
FLOATS: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
CACHED_BYTES = 2048
"""JSON without data up to this size is parsed once, since clients repeat it in every request."""

Values = AnyArray | list[str]


class Output(NamedTuple):
    """One output of a model beside its scores.

    Attributes:
        name: as clients request it.
        datatype: of the protocol.
        values: N of them; None where the request did not ask for any.
        optional: whether only some requests have it.
    """

    name: str
    datatype: Literal["FP64", "INT64", "BOOL", "BYTES"]
    values: Callable[[Answers], Values | None]
    optional: bool = False


def _labels(answers: Answers) -> list[str]:
    names = answers.question.model.predictor.class_names
    return ["" if label == WITHHELD else names[label] for label in answers.labels.tolist()]


def _complete(answers: Answers) -> AnyArray | None:
    tightening = answers.part.batch.predictions.tightening
    return None if tightening is None else tightening.complete


def _certificates(answers: Answers) -> list[str] | None:
    signed = answers.certificates
    return None if signed is None else [certificate or "" for certificate in signed]


OUTPUTS = (
    Output("label", "BYTES", _labels),
    Output("label_index", "INT64", lambda answers: answers.labels),
    Output("margin", "FP64", lambda answers: answers.part.margins),
    Output("certified_radius", "FP64", lambda answers: answers.part.radii),
    Output("abstained", "BOOL", lambda answers: answers.labels == WITHHELD),
    Output("certified", "BOOL", lambda answers: answers.certified, optional=True),
    Output("radius_float32_portable", "FP64", lambda answers: answers.portable, optional=True),
    Output("tightening_complete", "BOOL", _complete, optional=True),
    Output("certificate", "BYTES", _certificates, optional=True),
)


def name_of_scores(model: Model) -> str:
    """Return the name of the file's output; "scores" where another output has that name."""
    name: str = model.predictor.file.graph.output
    return "scores" if any(name == output.name for output in OUTPUTS) else name


def _decode(payload: Payload, max_rows: int, model: Model) -> DecodedRequest:
    length = header(payload.headers, LENGTH_NAME)
    if length is not None and not (length.isascii() and length.isdecimal() and len(length) < 16):
        raise InputError(f"is '{length[:64]}'; a number of bytes is accepted", field=LENGTH)
    request, inputs = read_infer(payload.body, None if length is None else int(length))
    name, given = model.predictor.file.graph.input, request.inputs[0].name
    if given != name:
        raise InputError(f"is '{given[:64]}'; the input is '{name}'", field="inputs[0].name")
    if len(inputs) > max_rows:
        raise InputError(f"has {len(inputs)} rows; at most {max_rows} are accepted in one request")
    return DecodedRequest(inputs, request.parameters, request)


def read_infer(body: bytes, json_length: int | None) -> tuple[InferRequest, AnyArray]:
    """Return a request, and its inputs in the shape that it gives.

    Args:
        body: JSON and binary tensors.
        json_length: of the JSON, in bytes; None where nothing follows it.

    Raises:
        Problem: 400 or 422 for an invalid request.
        InputError: the numbers do not fit their shape or type.
    """
    if json_length is not None and json_length > len(body):
        detail = f"{LENGTH} is {json_length}; the body has {len(body)} bytes"
        raise Problem(ProblemKind.NOT_JSON, detail)
    binary = memoryview(body)[len(body) if json_length is None else json_length :]
    text = body[: len(body) - len(binary)]
    check_values(text)
    if not binary and (fast := _read_fast(text)) is not None:
        request, numbers = fast
    else:
        request = _parse(text)
        numbers = _numbers(request.inputs[0], binary)
    shape = request.inputs[0].shape
    if numbers.size != math.prod(shape):
        raise InputError(f"has {numbers.size} numbers; shape {shape} takes {math.prod(shape)}")
    return request, shaped(numbers, shape)


def _parse(text: bytes) -> InferRequest:
    return _parse_cached(InferRequest, text) if len(text) <= CACHED_BYTES else parse(InferRequest, text)


_parse_cached = lru_cache(maxsize=256)(parse)


def _numbers(tensor: InputTensor, binary: memoryview) -> AnyArray:
    dtype, size = FLOATS[tensor.datatype], tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise InputError("needs either 'data' or bytes after the JSON, and not both")
    if size is not None:
        if size != len(binary) or size % dtype.itemsize:
            detail = f"{len(binary)} bytes follow the JSON; binary_data_size is {size}, of {tensor.datatype}"
            raise InputError(detail)
        return np.frombuffer(binary, dtype)
    if len(binary):
        raise InputError(f"is in the JSON, but {len(binary)} bytes follow it")
    try:
        array = np.array(tensor.data)
    except ValueError:  # rows of different length
        raise InputError(f"is not of shape {tensor.shape}") from None
    if array.dtype.kind not in "fiu" or _has_booleans(tensor.data):
        raise InputError("has a value that is no number; only numbers are accepted")
    if array.ndim != 1 and list(array.shape) != tensor.shape:
        raise InputError(f"has shape {list(array.shape)}; its own 'shape' is {tensor.shape}")
    return _rounded(array.astype(np.float64).ravel(), dtype)


def _has_booleans(data: Any) -> bool:
    return any(map(_has_booleans, data)) if isinstance(data, list) else isinstance(data, bool)


def _rounded(numbers: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    with np.errstate(over="ignore"):  # what exceeds float32 becomes infinite, and is refused as such
        return numbers.astype(dtype)


def _read_fast(body: bytes) -> tuple[InferRequest, AnyArray] | None:
    """Return a request whose data is one flat array; None where the strict reader has to decide."""
    try:
        document: Any = simdjson.Parser().parse(body)
        # An escape may stand for a bracket, and brackets are counted below.
        if body[:1] != b"{" or b"\\" in body or len(document["inputs"]) != 1:
            return None
        tensor = document["inputs"][0]
        names = [*document.keys()], [*tensor.keys()]
        if any(len(set(some)) < len(some) for some in names):
            return None
        data = tensor["data"]
        rest: dict[str, Any] = {name: _plain(document[name]) for name in names[0] if name != "inputs"}
        rest["inputs"] = [{name: _plain(tensor[name]) for name in names[1] if name != "data"}]
        text = orjson.dumps(rest)
        # All other arrays are in this text; so those of the data are one, and it is flat.
        if brackets(body) != brackets(text) + 1:
            return None
        request = _parse(text)
        if request.inputs[0].parameters.binary_data_size is not None:
            return None
        numbers = np.frombuffer(data.as_buffer(of_type="d"), dtype=np.float64)
        return request, _rounded(numbers, FLOATS[request.inputs[0].datatype])
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError, Problem):
        return None


def _plain(element: Any) -> Any:
    if isinstance(element, simdjson.Object):
        return element.as_dict()
    return element.as_list() if isinstance(element, simdjson.Array) else element


def _encode(answers: Answers) -> tuple[bytes, list[Header]]:
    request, part, model = answers.question.context, answers.part, answers.question.model
    parameters = {"execution": part.execution}
    if answers.warnings:
        parameters["warnings"] = " ".join(warning.detail for warning in answers.warnings)
    available: dict[str, tuple[str, Values]] = {name_of_scores(model): ("FP64", part.scores)}
    for output in OUTPUTS:
        if (values := output.values(answers)) is not None:
            available[output.name] = output.datatype, values
    written, tail = [], []
    for name, binary in _wanted(request, available).items():
        datatype, values = available[name]
        shape = (len(values),) if isinstance(values, list) else values.shape
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            tail.append(_bytes_of(values))
            tensor["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            tensor["data"] = values if isinstance(values, list) else values.ravel().tolist()
        written.append(tensor)
    content: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    content["parameters"] = parameters
    if request.id is not None:
        content["id"] = request.id
    text = orjson.dumps(content | {"outputs": written})
    if not tail:
        return text, [(b"content-type", JSON_TYPE.encode())]
    described = [(LENGTH_NAME, b"%d" % len(text)), (b"content-type", FILE_TYPE.encode())]
    return b"".join([text, *tail]), described


def _wanted(request: InferRequest, available: dict[str, tuple[str, Values]]) -> dict[str, bool]:
    """Return the outputs that a request wants, and whether in binary."""
    default = request.parameters.binary_data_output
    if request.outputs is None:
        return dict.fromkeys(available, default)
    wanted = {}
    for i, output in enumerate(request.outputs):
        if output.name not in available:
            names = ", ".join(f"'{name}'" for name in available)
            raise InputError(f"is '{output.name[:64]}'; outputs are {names}", field=f"outputs[{i}].name")
        binary = output.parameters.binary_data
        wanted[output.name] = default if binary is None else binary
    return wanted


def _bytes_of(values: Values) -> bytes:
    """Return values in binary; a text follows its length in four bytes."""
    if not isinstance(values, list):
        return values.tobytes()
    return b"".join(len(text).to_bytes(4, "little") + text for text in (v.encode() for v in values))


# Triton's own client sends no Content-Type.
CODEC = Codec((JSON_TYPE, FILE_TYPE), _decode, _encode, default_media_type=JSON_TYPE)
