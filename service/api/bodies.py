"""Bodies of requests to the routes, read within limits, and the responses to these requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service.api.context import ServiceDep
from service.budget import LEASE, Budget, Lease
from service.components import Service
from service.problems import Problem, ProblemKind
from service.protocols.bodies import (
    FILE_TYPE,
    JSON_TYPE,
    check_media_type,
    check_values,
    decompressed,
    header,
    parse,
    too_large,
)
from service.wire import HEADERS, Headers

MAX_PARTS = 8
SPOOLED_BYTES = 65_536
"""Limit on the memory of each field of a form, and of each file, the rest of which is on disk."""
VALUE_BYTES = 70
"""Memory that each value of a JSON body takes once it is parsed."""

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


def json_body(schema: type[M]) -> Callable[[Request, Service], Awaitable[M]]:
    """Return a dependency that reads the body as that type; the framework's own would not limit its size."""

    async def read(request: Request, service: ServiceDep) -> M:
        return await read_json(request, schema, service.settings.max_body_bytes)

    return read


async def read_json(request: Request, schema: type[M], limit: int) -> M:
    """Return the body as an object of that type.

    Raises:
        Problem: 415 for another media type; 413, 400 or 422 for an invalid body.
    """
    check_media_type(headers_of(request), JSON_TYPE)
    body = await read_body(request, limit)
    lease_of(request).hold(len(body) + VALUE_BYTES * check_values(body))
    return parse(schema, body)


async def read_body(request: Request, limit: int) -> bytes:
    """Return the whole body, decompressed where its headers announce compression.

    Raises:
        Problem: 413 over the limit; otherwise see :func:`decompressed`.
    """
    body = bytearray()
    async for chunk in _limited(request, limit):
        body += chunk
    return decompressed(bytes(body), headers_of(request), limit, lease_of(request))


async def until_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of work for a request after its body; cancel it if the client leaves first.

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
    """Yield the parts of a form; large files are on disk.

    Args:
        request: its body is the form.
        limit: on all parts together, in bytes.
        spooled: budget for the bytes on disk of all forms.

    Raises:
        Problem: 413, the parts exceed the limit; 503, all forms exceed their budget; 400, the body is no
            form.
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
    async with AsyncExitStack() as stack:
        stack.callback(on_disk.end)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            detail = f"the form cannot be read: {error.message}"
            raise refused[0] if refused else Problem(ProblemKind.NOT_A_FORM, detail) from None
        stack.push_async_callback(form.close)
        yield form


async def read_file(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a file that is the whole body, as they arrive.

    Raises:
        Problem: 415 for another media type, 413 over the limit.
    """
    _check_encoding(request)
    check_media_type(headers_of(request), FILE_TYPE, missing=FILE_TYPE)
    async for chunk in _passed_on(request, limit):
        yield chunk


def lease_of(request: Request) -> Lease:
    """Return the lease that holds memory for a request."""
    lease: Lease = request.scope[LEASE]
    return lease


def headers_of(request: Request) -> Headers:
    """Return the headers of a request by name."""
    headers: Headers = request.scope[HEADERS]
    return headers


def reply(model: BaseModel) -> Response:
    """Return the response 200; floats are written so that reading gives the same float."""
    return Response(model.model_dump_json(by_alias=True), media_type=JSON_TYPE)


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        detail = f"Content-Encoding is '{encoding}'; only an uncompressed body is accepted"
        raise Problem(ProblemKind.UNSUPPORTED_MEDIA_TYPE, detail)


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the body until it is known to exceed the limit; the server discards the rest."""
    declared = header(headers_of(request), b"content-length") or ""
    if declared.isdecimal() and int(declared) > limit:
        raise too_large(limit)
    read, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            detail = "the connection was closed before the body was complete"
            raise Problem(ProblemKind.NOT_JSON, detail)
        chunk, more = message.get("body", b""), message.get("more_body", False)
        read += len(chunk)
        if read > limit:
            raise too_large(limit)
        yield chunk


async def _passed_on(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield a body that is written elsewhere: no memory is held for the parts already consumed."""
    lease = lease_of(request)
    async for chunk in _limited(request, limit):
        yield chunk
        lease.hold(lease.size - len(chunk))
