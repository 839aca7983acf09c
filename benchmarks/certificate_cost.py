"""CPU of the certificate: answers with radius against scores alone, in process, and within a whole request.

    python -m benchmarks.certificate_cost [--baseline ../old]

A request passes the whole service (HTTP, authentication, metrics, validation), from the bytes read to those
written, without a socket or a batch. Parts are timed in turns; medians of process time. With ``--baseline``
another tree is measured in turns with this one, each by its own ``benchmarks.certificate_cost`` in a new
process.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from benchmarks import ours
from benchmarks.alternating import ROUNDS, Pairs, baseline_option, environments, in_rounds
from benchmarks.alternating import table as ratios
from benchmarks.lipserve import raw_request
from benchmarks.tables import markdown
from benchmarks.wire import PREDICT, PREDICT_NPY, V2_BINARY, V2_JSON, Array, Wire
from lipmodel.certify.predictor import CertifiedPredictor
from service.app import create_app
from service.http.connection import Connection
from service.http.server import Server
from service.settings import Settings
from tests.networks import groupsort_net, to_file

MODELS = {"784-512-512-10": ((784, 512, 512), 10), "2-64-64-1": ((2, 64, 64), 1)}
ROWS = (1, 64)
WIRES = (PREDICT, PREDICT_NPY, V2_JSON, V2_BINARY)
TURN_SECONDS = 0.02
ONE_TREE = """
import asyncio, json, sys, time
from pathlib import Path
from benchmarks import certificate_cost

async def in_turns(parts, turns):
    taken = {name: [] for name in parts}
    for part in parts.values():
        await part()
    print(flush=True)
    while sys.stdin.readline() == "turn\\n":
        for name, part in parts.items():
            begun, count = time.process_time(), 0
            while time.process_time() - begun < %f:
                for _ in range(10):
                    await part()
                count += 10
            taken[name].append(1e6 * (time.process_time() - begun) / count)
        print(json.dumps({name: values[-1] for name, values in taken.items()}), flush=True)
    return taken

certificate_cost.in_turns = in_turns
certificate_cost.certificate_cost(sys.argv[1], Path(sys.argv[2]).read_bytes())
"""
"""Runs in one tree: takes a turn for each line "turn"; any other line leads to the next rows or execution."""


@dataclass(frozen=True)
class Cost:
    """CPU time in µs: of scores alone, of label and radius in addition, and of a request by wire."""

    model: str
    execution: str
    rows: int
    scores: float
    radius: float
    requests: dict[str, float]

    @property
    def share(self) -> float:
        """Return the share of the radius in the cheapest request."""
        return self.radius / min(self.requests.values())


def certificate_cost(model: str, content: bytes, turns: int = 15) -> list[Cost]:
    """Return the costs of a model in every execution and number of rows."""
    return [
        asyncio.run(_measure(model, content, execution, rows, turns))
        for execution in ("float64", "float32")
        for rows in ROWS
    ]


async def _measure(model: str, content: bytes, execution: str, rows: int, turns: int) -> Cost:
    predictor, dtype = CertifiedPredictor(content), np.float32 if execution == "float32" else np.float64
    inputs = np.random.default_rng(0).random((rows, predictor.file.graph.input_size), dtype=np.float32)
    x, norm = predictor.check_inputs(inputs), predictor.default_norm

    async def scores() -> None:
        predictor.head.class_scores(predictor._raw_scores(x, dtype))

    async def answer() -> None:
        predictor.answer(x, norm, execution=dtype)

    with tempfile.TemporaryDirectory() as name:
        models = ours.prepare(Path(name) / "service", content, execution)
        key = ours.make_key(models)
        settings = Settings(models=models)
        app: Any = create_app(settings)
        server = Server(app, settings)
        server.config.load()
        async with app.router.lifespan_context(app):
            while not app.state.service.registry.defaults:  # the file is being checked
                await asyncio.sleep(0.1)
            parts = {"scores": scores, "answer": answer}
            parts |= {wire.name: request(server, wire, inputs, key) for wire in WIRES}
            taken = await in_turns(parts, turns)
    radius = median(b - a for a, b in zip(taken["scores"], taken["answer"], strict=True))
    requests = {wire.name: median(taken[wire.name]) for wire in WIRES}
    return Cost(model, execution, rows, median(taken["scores"]), radius, requests)


class Wires(asyncio.Transport):
    """A transport without a network, for one request at a time."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: nothing is buffered."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def write(self, data: Any) -> None:
        """Keep the answer, or the first part of it."""
        if not self.answered.done():
            self.answered.set_result(bytes(data))

    def is_closing(self) -> bool:
        """Return False."""
        return False

    def pause_reading(self) -> None:
        """Do nothing: all of a request is read at once."""

    resume_reading = pause_reading


def request(server: Server, wire: Wire, inputs: Array, key: str) -> Callable[[], Awaitable[None]]:
    """Return a function that sends a request and waits for the answer."""
    headers, body = wire.write(inputs)
    sent = raw_request(wire.path, body, {"Authorization": f"Bearer {key}", **headers})
    transport = Wires()
    connection = Connection(server.config, server.server_state, {})
    connection.connection_made(transport)

    async def call() -> None:
        transport.answered = asyncio.get_running_loop().create_future()
        connection.data_received(sent)
        answer = await transport.answered
        assert answer.startswith(b"HTTP/1.1 200 "), answer

    return call


async def in_turns(parts: dict[str, Callable[[], Awaitable[None]]], turns: int) -> dict[str, list[float]]:
    """Return the µs of each part in every turn."""
    counts: dict[str, int] = {}
    for name, part in parts.items():
        await part()
        begun = time.process_time()
        await part()
        counts[name] = 1 + int(TURN_SECONDS / max(time.process_time() - begun, 1e-5))
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(turns):
        for name, part in parts.items():
            begun = time.process_time()
            for _ in range(counts[name]):
                await part()
            taken[name].append(1e6 * (time.process_time() - begun) / counts[name])
    return taken


def table(costs: list[Cost]) -> str:
    """Return the costs as Markdown."""
    names = [wire.name for wire in WIRES]
    headings = ("model", "execution", "rows", "scores", "radius adds", *names, "radius's share")
    rows = []
    for cost in costs:
        requests = (f"{cost.requests[name]:.0f}" for name in names)
        parts = f"{cost.scores:.1f}", f"{cost.radius:.1f}", *requests, f"{cost.share:.1%}"
        rows.append((cost.model, cost.execution, cost.rows, *parts))
    return f"CPU in process, µs:\n\n{markdown(headings, rows)}"


def against(baseline: Path, model: str, content: bytes, rounds: int) -> Pairs:
    """Return µs of CPU (before, now) in each round: of every execution, number of rows and part."""
    found: Pairs = {}
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "model.onnx").write_bytes(content)
        command = [sys.executable, "-c", ONE_TREE % (5 * TURN_SECONDS), model, str(file)]
        running = {
            name: subprocess.Popen(
                command,
                env=os.environ | variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, variables in environments(baseline).items()
        }

        def take_turn(tree: str) -> dict[str, float]:
            print("turn", file=running[tree].stdin, flush=True)
            costs: dict[str, float] = json.loads(running[tree].stdout.readline())
            return {f"{title} {part}": cost for part, cost in costs.items()}

        for execution in ("float64", "float32"):
            for rows in ROWS:
                title = f"{model} {execution} {rows}"
                for process in running.values():
                    process.stdout.readline()  # it is ready
                found |= in_rounds(take_turn, rounds)
                for process in running.values():
                    print("next", file=process.stdin, flush=True)
        for process in running.values():
            process.communicate()
    return found


@click.command()
@baseline_option
@click.option("--rounds", default=ROUNDS, show_default=True, help="With --baseline.")
def main(baseline: Path | None, rounds: int) -> None:
    """Print the table, or the ratios to a baseline."""
    costs, found = [], {}
    for model, (widths, classes) in MODELS.items():
        content = to_file(groupsort_net(widths, classes))
        if baseline is None:
            costs += certificate_cost(model, content)
        else:
            found |= against(baseline, model, content, rounds)
    print(ratios(found, "µs of CPU in process") if found else table(costs))


if __name__ == "__main__":
    main()
