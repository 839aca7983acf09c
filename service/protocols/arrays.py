"""Inputs of requests as arrays, without a Python object for each number.

simdjson reads JSON directly into an array. It accepts only bodies that the strict reader (``bodies.parse``)
accepts, too; all others it leaves to the strict reader, whose errors name the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, Literal

import numpy as np
import orjson
import simdjson
from pydantic import ValidationError

from lipmodel.errors import InputError
from service.inference.request import PredictOptions
from service.problems import Problem, ProblemKind
from service.protocols.bodies import as_problem, check_values, input_array, parse
from service.protocols.v1_schemas import PredictRequest
from service.wire import MAX_DIMENSIONS, MAX_LENGTH, AnyArray

NO_OPTIONS = PredictOptions()
MAGIC_BYTES = 8
"""Length of the prefix of an npy file, with the version of its format."""


def read_json_inputs(body: bytes, size: int, max_rows: int) -> tuple[AnyArray, PredictOptions]:
    """Return the inputs (N, size) and options of a predict request in JSON.

    Raises:
        Problem: 400 or 422, the body is no such request.
        InputError: no rows, more than ``max_rows``, or one of another length.
    """
    check_values(body)
    found = _read_fast(body, size)
    if found is not None and 0 < len(found[0]) <= max_rows:
        return found
    request = parse(PredictRequest, body)
    return input_array(request.inputs, size, max_rows), request


def _read_fast(body: bytes, size: int) -> tuple[AnyArray, PredictOptions] | None:
    """Return inputs and options; None where the strict reader has to decide."""
    try:
        document: Any = simdjson.Parser().parse(body)
        members = list(document.keys())
        # Parsers differ in byte order marks and duplicates.
        if body[:1] != b"{" or len(set(members)) < len(members):
            return None
        rows = document["inputs"]
        # The rows are the only arrays: another would be flattened with them.
        if brackets(body) != len(rows) + 1 or any(len(row) != size for row in rows):
            return None
        inputs = np.frombuffer(rows.as_buffer(of_type="d"), dtype=np.float64).reshape(len(rows), size)
        if len(members) == 1:
            return inputs, NO_OPTIONS
        options = {name: document[name] for name in members if name != "inputs"}
        return inputs, PredictOptions.model_validate_json(orjson.dumps(options))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return None


def brackets(body: bytes) -> int:
    """Return how many ``[`` a body has, in strings too; faster than ``bytes.count``."""
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord("[")))


def read_npy_inputs(
    body: bytes, parameters: dict[str, str], max_rows: int
) -> tuple[AnyArray, PredictOptions]:
    """Return the inputs (N, …) of a body in the format of ``numpy.save``, and the options of the query.

    Raises:
        Problem: 400, the body is no such array of floats; 422, an option is invalid.
        InputError: more than ``max_rows`` rows.
    """
    try:
        end = MAGIC_BYTES + (2 if body[6:7] == b"\x01" else 4)
        end += int.from_bytes(body[MAGIC_BYTES:end], "little")
        shape, fortran, dtype = _npy_header(body[:end])
        count = math.prod(shape)
    except Exception as error:  # numpy's reader evaluates the header, which fails in many ways
        reason = re.sub(" at 0x[0-9a-f]+", "", str(error))[:200]  # without addresses of this process
        detail = f"the body cannot be read as npy: {reason or 'its header is not understood'}"
        raise Problem(ProblemKind.NOT_AN_ARRAY, detail) from None
    if count * dtype.itemsize != len(body) - end:
        announced = f"its header announces {count * dtype.itemsize}"
        detail = f"the body has {len(body) - end} bytes of numbers; {announced}"
        raise Problem(ProblemKind.NOT_AN_ARRAY, detail)
    if shape and shape[0] > max_rows:
        raise InputError(f"has {shape[0]} rows; at most {max_rows} are accepted in one request")
    try:
        options = PredictOptions.model_validate_strings(parameters) if parameters else NO_OPTIONS
    except ValidationError as error:
        raise as_problem(error) from None
    return shaped(np.frombuffer(body, dtype, count, end), shape, "F" if fortran else "C"), options


def shaped(numbers: AnyArray, shape: Sequence[int], order: Literal["C", "F"] = "C") -> AnyArray:
    """Return numbers in a shape of the same size.

    Raises:
        InputError: numpy has no array of that shape, such as ``[2147483647, 2147483647, 0]``.
    """
    try:
        return numbers.reshape(shape, order=order)
    except ValueError:
        raise InputError(f"has the shape {list(shape)}, which is too large") from None


@lru_cache(maxsize=256)  # clients repeat the same shape, and numpy parses it as Python
def _npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = BytesIO(header)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format is unknown")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.kind != "f" or dtype.itemsize not in (4, 8):
        raise ValueError(f"its numbers are of type {dtype}; float32 and float64 are accepted")
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n <= MAX_LENGTH for n in shape):
        raise ValueError("no array has its shape")
    return shape, fortran, dtype
