"""Bodies of requests, read within limits and checked, and the answer's."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from lipmodel.errors import InputError
from lipmodel.norms import Array
from service.api.context import ServiceHere
from service.budget import LEASE, Budget, Lease
from service.components import Service
from service.problems import FieldError, Problem, ProblemKind
from service.wire import HEADERS, Headers

MAX_ERRORS = 10
MAX_PARTS = 8
FILE_TYPE = "application/octet-stream"
JSON_TYPE = "application/json"
EITHER_HEADER = 32
"""Of zlib: the header tells gzip from deflate."""
SPOOLED_BYTES = 65_536
"""Most bytes of each file of a form in memory, the rest being on the disk; and of each field."""
MAX_VALUES, VALUE_BYTES = 1_000_000, 70
"""Most values (numbers, arrays, …) in a JSON body, and the bytes that each takes once it is read."""
MAX_MEMBERS = 10_000
"""Of JSON objects: each that is not known takes 1 KB to say so."""
SMALL_BYTES = 16_384
"""JSON up to this size has no more than a few thousand values."""

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


def json_body(schema: type[M]) -> Callable[[Request, Service], Awaitable[M]]:
    """A dependency that reads the body as that type; the framework's own would read it whole first."""

    async def read(request: Request, service: ServiceHere) -> M:
        return await read_json(request, schema, service.settings.max_body_bytes)

    return read


async def read_json(request: Request, schema: type[M], limit: int) -> M:
    """The body as that type.

    Raises:
        Problem: 415 where it is said to be something else, 413, 400 or 422 for what is wrong with it.
    """
    check_media_type(headers_of(request), JSON_TYPE)
    body = await read_body(request, limit)
    lease_of(request).hold(len(body) + VALUE_BYTES * check_values(body))
    return parse(schema, body)


async def read_body(request: Request, limit: int) -> bytes:
    """The body whole, decompressed where it says that it is compressed.

    Raises:
        Problem: 413 where it is over the limit; otherwise see :func:`decompressed`.
    """
    body = bytearray()
    async for chunk in _limited(request, limit):
        body += chunk
    return decompressed(bytes(body), headers_of(request), limit, lease_of(request))


def decompressed(body: bytes, headers: Headers, limit: int, lease: Lease) -> bytes:
    """A body as it was before it was compressed, where the headers say that it is; held in its place.

    Raises:
        Problem: 413 where it is over the limit then, 503 where all bodies are over theirs; 415 for another
            compression; 400 where it is not compressed as it says.
    """
    given = header(headers, b"content-encoding")
    encoding = "identity" if given is None else given.strip().lower()
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        detail = f"Content-Encoding is '{encoding[:64]}'; 'gzip', 'deflate' or no compression is accepted"
        raise Problem(ProblemKind.UNSUPPORTED_MEDIA_TYPE, detail)
    inflating = zlib.decompressobj(wbits=zlib.MAX_WBITS | EITHER_HEADER)
    try:
        plain = inflating.decompress(body, limit + 1)  # no more is ever made of it, whatever it holds
    except zlib.error as error:
        detail = f"the body cannot be decompressed: {error}"
        raise Problem(ProblemKind.NOT_COMPRESSED, detail) from None
    if len(plain) > limit:
        raise _too_large(limit)
    if not inflating.eof or inflating.unused_data:
        raise Problem(ProblemKind.NOT_COMPRESSED, "the compressed body is cut short, or more follows it")
    lease.hold(len(plain))
    return plain


async def until_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of work for a request whose body was read; cancel it if the client leaves first.

    Raises:
        ClientDisconnect: the client has left.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


@asynccontextmanager
async def read_form(request: Request, limit: int, spooled: Budget) -> AsyncIterator[FormData]:
    """The parts of a form; files that are not small lie on the disk.

    Args:
        request: its body is the form.
        limit: of all parts together, in bytes.
        spooled: the bytes on the disk of all forms.

    Raises:
        Problem: 413 where all are together over the limit, 503 where those of all forms are over theirs, 400
            where the body is no form.
    """
    _check_encoding(request)
    lease_of(request).hold(lease_of(request).size + 2 * MAX_PARTS * SPOOLED_BYTES)
    on_disk, refused = Lease(spooled), list[Problem]()

    async def stream() -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in _passed_on(request, limit):
                on_disk.hold(on_disk.size + len(chunk))
                yield chunk
        except Problem as problem:  # the parser closes its files at an error of its own alone
            refused.append(problem)
            raise MultiPartException(problem.detail) from problem

    parser = MultiPartParser(
        request.headers, stream(), max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=SPOOLED_BYTES
    )
    parser.spool_max_size = SPOOLED_BYTES
    try:
        try:
            form = await parser.parse()
        except MultiPartException as error:
            detail = f"the form cannot be read: {error.message}"
            raise refused[0] if refused else Problem(ProblemKind.NOT_A_FORM, detail) from None
        try:
            yield form
        finally:
            await form.close()
    finally:
        on_disk.end()


async def read_file(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The bytes of a file that is the whole body, as they come.

    Raises:
        Problem: 415 where it is said to be something else, 413 where it is over the limit.
    """
    _check_encoding(request)
    check_media_type(headers_of(request), FILE_TYPE, missing=FILE_TYPE)
    async for chunk in _passed_on(request, limit):
        yield chunk


def check_values(content: str | bytes) -> int:
    """Return how many values JSON has, roughly; 0 of little.

    Raises:
        Problem: 413, so many would take hundreds of megabytes once they are read.
    """
    if len(content) <= SMALL_BYTES:
        return 0
    text = np.frombuffer(content.encode() if isinstance(content, str) else content, np.uint8)
    commas, arrays, members = (int(np.count_nonzero(text == ord(mark))) for mark in ",[:")
    if commas + arrays > MAX_VALUES or members > MAX_MEMBERS:
        detail = (
            f"the JSON holds about {commas + arrays} values and {members} members; at most {MAX_VALUES} and "
            f"{MAX_MEMBERS} are accepted: send fewer rows at a time, or arrays as 'application/x-npy' or .npz"
        )
        raise Problem(ProblemKind.BODY_TOO_LARGE, detail)
    return commas + arrays


def parse(schema: type[M], content: str | bytes) -> M:
    """JSON as that type.

    Raises:
        Problem: 400 where it is no JSON, 422 where it is of another type.
    """
    if not content.strip():
        raise Problem(ProblemKind.NOT_JSON, "the body is empty; a JSON object is accepted")
    check_values(content)
    try:
        return schema.model_validate_json(content)
    except ValidationError as error:
        raise as_problem(error) from None


def lease_of(request: Request) -> Lease:
    """Return the lease that holds memory for a request."""
    lease: Lease = request.scope[LEASE]
    return lease


def headers_of(request: Request) -> Headers:
    """Headers by name in small letters; of a repeated one the first."""
    headers: Headers = request.scope[HEADERS]
    return headers


def media_type_of(headers: Headers) -> str | None:
    """The type of the body; None where it is not given."""
    given = header(headers, b"content-type")
    return None if given is None else given.partition(";")[0].strip().lower()


def check_media_type(headers: Headers, *accepted: str, missing: str | None = None) -> None:
    """Raise the 415 for a body of another type.

    Args:
        headers: of the request.
        accepted: types.
        missing: the type where none is given; None refuses that, since a page may have any body sent so.
    """
    given = media_type_of(headers) or missing
    if given not in accepted:
        wanted = " or ".join(f"'{name}'" for name in accepted)
        said = "missing" if given is None else f"'{given[:64]}'"
        raise Problem(ProblemKind.UNSUPPORTED_MEDIA_TYPE, f"Content-Type is {said}; {wanted} is accepted")


def header(headers: Headers, name: bytes) -> str | None:
    """A header by its name in small letters; None where there is none."""
    value = headers.get(name)
    return None if value is None else str(value, "latin-1")


def input_array(rows: list[list[float]], size: int, max_rows: int) -> Array:
    """Rows of a request as an array (rows, size).

    Raises:
        InputError: no rows, too many, or one of another length.
    """
    if not rows:
        raise InputError("is empty; at least one row is accepted")
    if len(rows) > max_rows:
        raise InputError(f"has {len(rows)} rows; at most {max_rows} are accepted in one request")
    for i, row in enumerate(rows):
        if len(row) != size:
            raise InputError(f"has length {len(row)}; length {size} is accepted", field=f"inputs[{i}]")
    return np.array(rows, dtype=np.float64)


def reply(model: BaseModel) -> Response:
    """The answer 200; floats are written so that reading them gives the same float."""
    return Response(model.model_dump_json(by_alias=True), media_type=JSON_TYPE)


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        detail = f"Content-Encoding is '{encoding}'; an uncompressed body is accepted"
        raise Problem(ProblemKind.UNSUPPORTED_MEDIA_TYPE, detail)


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body, given up as soon as it is known to be over the limit; the server discards the rest."""
    declared = header(headers_of(request), b"content-length") or ""
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    read, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            detail = "the connection was closed before the body was whole"
            raise Problem(ProblemKind.NOT_JSON, detail)
        chunk, more = message.get("body", b""), message.get("more_body", False)
        read += len(chunk)
        if read > limit:
            raise _too_large(limit)
        yield chunk


async def _passed_on(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The same of a body that is put elsewhere: a part that was taken is held no longer."""
    lease = lease_of(request)
    async for chunk in _limited(request, limit):
        yield chunk
        lease.hold(lease.size - len(chunk))


def _too_large(limit: int) -> Problem:
    return Problem(ProblemKind.BODY_TOO_LARGE, f"the body is over the limit of {limit} bytes")


def as_problem(error: ValidationError) -> Problem:
    """400 where the body is not JSON, else 422 naming each place."""
    found = error.errors(include_url=False, include_context=True)
    if found[0]["type"] == "json_invalid":
        return Problem(
            ProblemKind.NOT_JSON, found[0]["msg"].replace("Invalid JSON", "the body cannot be read as JSON")
        )
    return Problem.invalid([_field_error(e) for e in found[:MAX_ERRORS]])


def _field_error(error: Any) -> FieldError:
    field = ""
    for part in error["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else part
    return FieldError(field=field or "body", reason=_reason(error))


ACCEPTED = {
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
    """What was given and what is accepted, in the words of the other errors."""
    kind, given = error["type"], error["input"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is not known here"
    accepted = ACCEPTED[kind].format_map(error.get("ctx", {})) if kind in ACCEPTED else error["msg"]
    shown = JSON_TYPES.get(type(given)) if kind != "enum" or not isinstance(given, str) else f"'{given[:40]}'"
    return f"is {shown or _number(given)}; {accepted}"


def _number(given: Any) -> str:
    text = str(given)
    return text if len(text) <= 40 else f"{text[:20]}… ({len(text)} digits)"
