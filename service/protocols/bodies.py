"""Bodies of requests within limits: media types, decompression, and JSON as typed objects."""

from __future__ import annotations

import zlib
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from lipmodel.errors import InputError
from lipmodel.norms import Array
from service.budget import Lease
from service.problems import FieldError, Problem, ProblemKind
from service.wire import Headers

MAX_ERRORS = 10
FILE_TYPE = "application/octet-stream"
JSON_TYPE = "application/json"
GZIP_OR_ZLIB = 32
"""Flag of zlib: detect the format by its header."""
MAX_VALUES, MAX_MEMBERS = 1_000_000, 10_000
"""Limits on a JSON body: values (numbers, arrays, …), and object members, 1 KB each to report as unknown."""
SMALL_BYTES = 16_384
"""JSON up to this size has no more than a few thousand values."""

M = TypeVar("M", bound=BaseModel)


def decompressed(body: bytes, headers: Headers, limit: int, lease: Lease) -> bytes:
    """Return a body without the compression that its headers announce; memory is held for it in its place.

    Raises:
        Problem: 413, the result exceeds the limit; 503, it exceeds the memory budget; 415, another
            compression; 400, the body is not compressed as announced.
    """
    given = header(headers, b"content-encoding")
    encoding = "identity" if given is None else given.strip().lower()
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        detail = f"Content-Encoding is '{encoding[:64]}'; 'gzip', 'deflate' or no compression is accepted"
        raise Problem(ProblemKind.UNSUPPORTED_MEDIA_TYPE, detail)
    inflating = zlib.decompressobj(wbits=zlib.MAX_WBITS | GZIP_OR_ZLIB)
    try:
        plain = inflating.decompress(body, limit + 1)  # and no more, however much the body would give
    except zlib.error as error:
        detail = f"the body cannot be decompressed: {error}"
        raise Problem(ProblemKind.NOT_COMPRESSED, detail) from None
    if len(plain) > limit:
        raise too_large(limit)
    if not inflating.eof or inflating.unused_data:
        detail = "the compressed body is truncated, or other bytes follow it"
        raise Problem(ProblemKind.NOT_COMPRESSED, detail)
    lease.hold(len(plain))
    return plain


def too_large(limit: int) -> Problem:
    """Return the 413 of a body over the limit, in bytes."""
    return Problem(ProblemKind.BODY_TOO_LARGE, f"the body exceeds the limit of {limit} bytes")


def header(headers: Headers, name: bytes) -> str | None:
    """Return the value of a header by its name in lower case; None where it is missing."""
    value = headers.get(name)
    return None if value is None else str(value, "latin-1")


def media_type_of(headers: Headers) -> str | None:
    """Return the media type of a body, without parameters; None where it is missing."""
    given = header(headers, b"content-type")
    return None if given is None else given.partition(";")[0].strip().lower()


def check_media_type(headers: Headers, *accepted: str, missing: str | None = None) -> None:
    """Raise a 415 unless a body has one of the accepted media types.

    Args:
        headers: of the request.
        accepted: media types.
        missing: media type assumed without the header; None refuses such a body, since web pages of any
            origin can send one.
    """
    given = media_type_of(headers) or missing
    if given not in accepted:
        wanted = " or ".join(f"'{name}'" for name in accepted)
        said = "missing" if given is None else f"'{given[:64]}'"
        raise Problem(ProblemKind.UNSUPPORTED_MEDIA_TYPE, f"Content-Type is {said}; {wanted} is accepted")


def check_values(content: str | bytes) -> int:
    """Return roughly how many values JSON has; 0 for a small text.

    Raises:
        Problem: 413, parsing so many values would take hundreds of megabytes.
    """
    if len(content) <= SMALL_BYTES:
        return 0
    text = np.frombuffer(content.encode() if isinstance(content, str) else content, np.uint8)
    commas, arrays, members = (int(np.count_nonzero(text == ord(mark))) for mark in ",[:")
    if commas + arrays > MAX_VALUES or members > MAX_MEMBERS:
        detail = (
            f"the JSON has about {commas + arrays} values and {members} members; at most {MAX_VALUES} and "
            f"{MAX_MEMBERS} are accepted: send fewer rows, or arrays as 'application/x-npy' or .npz"
        )
        raise Problem(ProblemKind.BODY_TOO_LARGE, detail)
    return commas + arrays


def parse(schema: type[M], content: str | bytes) -> M:
    """Return JSON as an object of that type.

    Raises:
        Problem: 400 for invalid JSON, 422 for JSON of another type, 413 for too many values.
    """
    if not content.strip():
        raise Problem(ProblemKind.NOT_JSON, "the body is empty; a JSON object is expected")
    check_values(content)
    try:
        return schema.model_validate_json(content)
    except ValidationError as error:
        raise as_problem(error) from None


def input_array(rows: list[list[float]], size: int, max_rows: int) -> Array:
    """Return the rows of a request as an array (rows, size).

    Raises:
        InputError: no rows, more than ``max_rows``, or one of another length.
    """
    if not rows:
        raise InputError("is empty; at least one row is required")
    if len(rows) > max_rows:
        raise InputError(f"has {len(rows)} rows; at most {max_rows} are accepted in one request")
    for i, row in enumerate(rows):
        if len(row) != size:
            values = f"{len(row)} value{'s' * (len(row) != 1)}"
            raise InputError(f"has {values}; this model expects {size}", field=f"inputs[{i}]")
    return np.array(rows, dtype=np.float64)


def as_problem(error: ValidationError) -> Problem:
    """Return the 400 for a body that is no JSON, else the 422 that names each invalid field."""
    found = error.errors(include_url=False, include_context=True)
    if found[0]["type"] == "json_invalid":
        detail = found[0]["msg"].replace("Invalid JSON", "the body cannot be read as JSON")
        return Problem(ProblemKind.NOT_JSON, detail)
    return Problem.invalid([_field_error(e) for e in found[:MAX_ERRORS]])


def _field_error(error: Any) -> FieldError:
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    return FieldError(field=field.removeprefix(".") or "body", reason=_reason(error))


EXPECTED = {
    "float_type": "a number is accepted",
    "int_type": "a whole number is accepted",
    "finite_number": "a finite number is accepted",
    "list_type": "an array is accepted",
    "model_type": "an object is accepted",
    "enum": "one of {expected} is accepted",
    "greater_than_equal": "at least {ge} is accepted",
    "less_than_equal": "at most {le} is accepted",
    "less_than": "less than {lt} is accepted",
    "string_type": "a string is accepted",
}
JSON_TYPES = {str: "a string", bool: "a boolean", type(None): "null", list: "an array", dict: "an object"}


def _reason(error: Any) -> str:
    """Return the value that was sent and those accepted, in the form of the other messages."""
    kind, given = error["type"], error["input"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is not a known field"
    expected = EXPECTED[kind].format_map(error.get("ctx", {})) if kind in EXPECTED else error["msg"]
    shown = JSON_TYPES.get(type(given)) if kind != "enum" or not isinstance(given, str) else f"'{given[:40]}'"
    return f"is {shown or _number(given)}; {expected}"


def _number(given: Any) -> str:
    text = str(given)
    return text if len(text) <= 40 else f"{text[:20]}… ({len(text)} digits)"
