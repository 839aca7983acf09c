"""Cost of the outermost layer for each request: a minimal ASGI application with and without it.

    python -m benchmarks.observed [--requests 20000] [--rounds 7]

In one process, without a network; rounds alternate, and the median processor time of each is printed.
"""

from __future__ import annotations

import asyncio
from statistics import median
from time import process_time
from typing import Any

import click

from service.budget import LEASE, Budget, Lease
from service.http.instrumentation import Instrumentation, InstrumentationMiddleware
from service.telemetry.metrics import Metrics

SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/models/digits/predict",
    "headers": [
        (b"host", b"127.0.0.1:8000"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"connection", b"keep-alive"),
        (b"user-agent", b"python-httpx/0.28.1"),
        (b"content-length", b"1234"),
        (b"content-type", b"application/json"),
    ],
    LEASE: Lease(Budget(2**30, "")),
}
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", b"2"), (b"content-type", b"application/json")],
}
BODY = {"type": "http.response.body", "body": b"{}"}


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer with an empty object."""
    await receive()
    await send(START)
    await send(BODY)


async def receive() -> dict[str, Any]:
    """Return an empty body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(_: Any) -> None:
    """Discard a message."""


async def microseconds(app: Any, requests: int) -> float:
    """Return the processor time of one request."""
    begun = process_time()
    for _ in range(requests):
        await app(dict(SCOPE), receive, send)
    return 1e6 * (process_time() - begun) / requests


@click.command()
@click.option("--requests", default=20_000, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(requests: int, rounds: int) -> None:
    """Print the medians."""

    async def measure() -> None:
        observed = InstrumentationMiddleware(answer, instrumentation=Instrumentation(Metrics()))
        taken: dict[str, list[float]] = {"bare": [], "observed": []}
        for _ in range(rounds):
            taken["bare"].append(await microseconds(answer, requests))
            taken["observed"].append(await microseconds(observed, requests))
        bare, with_layer = median(taken["bare"]), median(taken["observed"])
        cost = with_layer - bare
        print(f"bare {bare:.2f} us, observed {with_layer:.2f} us: the layer costs {cost:.2f} us a request")

    asyncio.run(measure())
    stage = Metrics().stages.of("parse")
    begun = process_time()
    for _ in range(requests):
        stage.observe(1e-4)
    print(f"one observation of a stage: {1e6 * (process_time() - begun) / requests:.2f} us")


if __name__ == "__main__":
    main()
