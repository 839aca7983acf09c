"""Inputs of requests as arrays, without an object of Python's a number.

JSON is read by simdjson, straight into an array. It takes only what the strict reader
(``bodies.parse``) would take as well; whatever is unusual or wrong it leaves to that one, which says why.
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
"""Of an npy file: what it begins with, and the version of its format."""


def read_json_inputs(body: bytes, size: int, max_rows: int) -> tuple[AnyArray, PredictOptions]:
    """Inputs (N, size) and options of a predict request in JSON.

    Raises:
        Problem: 400 or 422, it is none.
        InputError: no rows, more than ``max_rows``, or one of another length.
    """
    check_values(body)
    found = _read_fast(body, size)
    if found is not None and 0 < len(found[0]) <= max_rows:
        return found
    request = parse(PredictRequest, body)
    return input_array(request.inputs, size, max_rows), request


def _read_fast(body: bytes, size: int) -> tuple[AnyArray, PredictOptions] | None:
    """The same, or None where that is for the strict reader to judge."""
    try:
        document: Any = simdjson.Parser().parse(body)
        members = list(document.keys())
        if body[:1] != b"{" or len(set(members)) < len(members):  # readers differ over marks and repetitions
            return None
        rows = document["inputs"]
        # No array but the rows: one more would be flattened with them.
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
    """How many arrays begin in a body, and ``[`` stand in its strings; as fast as ``bytes.count`` is slow."""
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord("[")))


def read_npy_inputs(
    body: bytes, parameters: dict[str, str], max_rows: int
) -> tuple[AnyArray, PredictOptions]:
    """Inputs (N, …) of a request whose body is what ``numpy.save`` writes, options from the query.

    Raises:
        Problem: 400 where the body is no such file of numbers, 422 for what is wrong with an option.
        InputError: more than ``max_rows``.
    """
    try:
        end = MAGIC_BYTES + (2 if body[6:7] == b"\x01" else 4)
        end += int.from_bytes(body[MAGIC_BYTES:end], "little")
        shape, fortran, dtype = _npy_header(body[:end])
        count = math.prod(shape)
    except Exception as error:  # numpy's reader evaluates the header, which fails in many ways
        told = re.sub(" at 0x[0-9a-f]+", "", str(error))[:200]  # of an object in this process
        detail = f"the body cannot be read as npy: {told or 'its header is not understood'}"
        raise Problem(ProblemKind.NOT_AN_ARRAY, detail) from None
    if count * dtype.itemsize != len(body) - end:
        detail = f"the body holds {len(body) - end} bytes of numbers; {count * dtype.itemsize} are announced"
        raise Problem(ProblemKind.NOT_AN_ARRAY, detail)
    if shape and shape[0] > max_rows:
        raise InputError(f"has {shape[0]} rows; at most {max_rows} are accepted in one request")
    try:
        options = PredictOptions.model_validate_strings(parameters) if parameters else NO_OPTIONS
    except ValidationError as error:
        raise as_problem(error) from None
    return shaped(np.frombuffer(body, dtype, count, end), shape, "F" if fortran else "C"), options


def shaped(numbers: AnyArray, shape: Sequence[int], order: Literal["C", "F"] = "C") -> AnyArray:
    """Numbers in a shape for so many.

    Raises:
        InputError: no array has that shape: ``[2147483647, 2147483647, 0]``, for one.
    """
    try:
        return numbers.reshape(shape, order=order)
    except ValueError:
        raise InputError(f"has the shape {list(shape)}, which is too large") from None


@lru_cache(maxsize=256)  # clients send the same shape again and again, and numpy parses it as Python
def _npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = BytesIO(header)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of its format is not known")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.kind != "f" or dtype.itemsize not in (4, 8):
        raise ValueError(f"its numbers are of type {dtype}; float32 and float64 are accepted")
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n <= MAX_LENGTH for n in shape):
        raise ValueError("its shape is no array's")
    return shape, fortran, dtype
