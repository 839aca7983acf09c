"""Tensors of the Open Inference Protocol v2, in JSON or binary.

A request is a JSON object, followed by the bytes of those tensors that say ``binary_data_size``; how long
the JSON is tells the header ``Inference-Header-Content-Length``. Answers are written likewise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import simdjson

from lipmodel.errors import InputError
from service.problems import Problem, ProblemKind
from service.protocols.arrays import brackets, shaped
from service.protocols.bodies import check_values, parse
from service.protocols.v2_schemas import InferRequest, InputTensor
from service.wire import AnyArray

FLOATS: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
DATATYPES = {"f": "FP64", "i": "INT64", "b": "BOOL"}
"""The protocol's names of what an array holds, by numpy's kinds."""
REMEMBERED_BYTES = 2048
"""Headers up to this size are parsed once: clients send the same one again and again."""


def read_infer(body: bytes, json_length: int | None) -> tuple[InferRequest, AnyArray]:
    """A request, and its inputs in the shape that it gives.

    Args:
        body: JSON and binary tensors.
        json_length: of the JSON; None where it is all.

    Raises:
        Problem: 400 or 422 for what is wrong with it.
        InputError: the numbers are not as the tensor says.
    """
    if json_length is not None and json_length > len(body):
        detail = f"Inference-Header-Content-Length is {json_length}; the body has {len(body)} bytes"
        raise Problem(ProblemKind.NOT_JSON, detail)
    binary = memoryview(body)[len(body) if json_length is None else json_length :]
    header = body[: len(body) - len(binary)]
    check_values(header)
    if not binary and (fast := _read_fast(header)) is not None:
        request, numbers = fast
    else:
        request = _remembered(header) if len(header) <= REMEMBERED_BYTES else parse(InferRequest, header)
        numbers = _numbers(request.inputs[0], binary)
    tensor = request.inputs[0]
    count = math.prod(tensor.shape)
    if numbers.size != count:
        raise InputError(f"has {numbers.size} numbers; {count} are accepted for shape {tensor.shape}")
    return request, shaped(numbers, tensor.shape)


@lru_cache(maxsize=256)
def _remembered(header: bytes) -> InferRequest:
    return parse(InferRequest, header)


def _numbers(tensor: InputTensor, binary: memoryview) -> AnyArray:
    dtype, size = FLOATS[tensor.datatype], tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise InputError("is accepted either as 'data' or as bytes after the JSON, one of them")
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
        raise InputError("holds something that is no number; numbers are accepted")
    if array.ndim != 1 and list(array.shape) != tensor.shape:
        raise InputError(f"has shape {list(array.shape)}; {tensor.shape}, as it says itself, is accepted")
    return _rounded(array.astype(np.float64).ravel(), dtype)


def _has_booleans(data: Any) -> bool:
    return any(map(_has_booleans, data)) if isinstance(data, list) else isinstance(data, bool)


def _rounded(numbers: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused as such
        return numbers.astype(dtype)


def _read_fast(body: bytes) -> tuple[InferRequest, AnyArray] | None:
    """A request whose data is one flat array; None where that is for the strict reader to judge."""
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
        header = orjson.dumps(rest)
        # All other arrays are in the header; so those of the data are one, and it is flat.
        if brackets(body) != brackets(header) + 1:
            return None
        request = _remembered(header) if len(header) <= REMEMBERED_BYTES else parse(InferRequest, header)
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


def write_infer(
    model: dict[str, Any], request: InferRequest, outputs: Sequence[tuple[str, AnyArray | list[str]]]
) -> tuple[bytes, int | None]:
    """The body of an answer, and how long its JSON is where tensors follow it.

    Args:
        model: members that tell which one answered.
        request: says which outputs are wanted, and how.
        outputs: all there are: arrays (N,) or (N, K), or N strings.

    Raises:
        Problem: 422, an output is wanted that there is none of.
    """
    known = dict(outputs)
    default = request.parameters.binary_data_output
    wanted = dict.fromkeys(known, default)
    if request.outputs is not None:
        wanted = {}
        for i, output in enumerate(request.outputs):
            if output.name not in known:
                names = ", ".join(f"'{name}'" for name in known)
                reason = f"is '{output.name[:64]}'; outputs are {names}"
                raise InputError(reason, field=f"outputs[{i}].name")
            binary = output.parameters.binary_data
            wanted[output.name] = default if binary is None else binary
    written, tail = [], []
    for name, binary in wanted.items():
        value = known[name]
        kind, shape = ("BYTES", (len(value),)) if isinstance(value, list) else _described(value)
        tensor: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
        if binary:
            tail.append(_lengths_and(value) if isinstance(value, list) else value.tobytes())
            tensor["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            tensor["data"] = value if isinstance(value, list) else value.ravel().tolist()
        written.append(tensor)
    answer = model | ({"id": request.id} if request.id is not None else {}) | {"outputs": written}
    header = orjson.dumps(answer)
    return b"".join([header, *tail]), len(header) if tail else None


def _described(value: AnyArray) -> tuple[str, tuple[int, ...]]:
    return DATATYPES[value.dtype.kind], value.shape


def _lengths_and(texts: list[str]) -> bytes:
    """Texts as the protocol sends them, each after its length in four bytes."""
    return b"".join(len(text).to_bytes(4, "little") + text for text in (v.encode() for v in texts))
