"""Running servers, ours or a peer's, with answers checked against those computed in process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import onnxruntime

from benchmarks.ours import Ours
from benchmarks.peers import Peer
from benchmarks.processes import Tree, free_port
from benchmarks.wire import Answers, Array, Wire

START_SECONDS = 60
TOLERANCE = 1e-5
"""Of a peer's scores: its onnxruntime may order float32 sums by the batch. Ours must agree bit for bit."""

Server = Ours | Peer


@dataclass(frozen=True)
class Running:
    """A started server, the headers of every request, and a function of inputs to their true answers."""

    server: Server
    tree: Tree
    url: str
    headers: dict[str, str]
    expected: Callable[[Array], Answers]

    def wait(self, x: Array) -> None:
        """Wait until the server answers.

        Raises:
            RuntimeError: the server ended, or does not answer within ``START_SECONDS``.
        """
        wire, end, last = self.server.wires[0], time.monotonic() + START_SECONDS, "does not listen"
        headers, body = wire.write(x)
        while self.tree.running and time.monotonic() < end:
            try:
                answer = httpx.post(self.url + wire.path, content=body, headers=self.headers | headers)
            except httpx.HTTPError:
                time.sleep(0.1)
                continue
            if answer.status_code == 200:
                return
            last = f"answers {answer.status_code}: {answer.text[:200]}"
            time.sleep(0.1)
        raise RuntimeError(f"{last}; {self.tree.last_line()}")

    def check(self, wire: Wire, inputs: list[Array], connections: int) -> None:
        """Send each input, as many at a time as there are connections, and compare the answers.

        Raises:
            RuntimeError: an answer is wrong.
        """
        asked = inputs * -(-connections // len(inputs))
        tolerance = 0.0 if isinstance(self.server, Ours) else TOLERANCE
        for x, answer in zip(asked, asyncio.run(self._ask(wire, asked, connections)), strict=True):
            if answer.status_code != 200:
                raise RuntimeError(f"answers {answer.status_code}: {answer.text[:200]}")
            try:
                found = wire.read(answer.headers, answer.content)
                wrong = [
                    name
                    for name, value in self.expected(x).items()
                    if found[name].shape != value.shape or not (abs(found[name] - value) <= tolerance).all()
                ]
            except (KeyError, ValueError) as error:
                raise RuntimeError(f"its answer cannot be read: {error!r}") from error
            if wrong:
                raise RuntimeError(f"wrong: {', '.join(wrong)}")

    async def _ask(self, wire: Wire, inputs: list[Array], connections: int) -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=connections)
        async with httpx.AsyncClient(base_url=self.url, limits=limits, timeout=60) as client:

            async def ask(x: Array) -> httpx.Response:
                headers, body = wire.write(x)
                return await client.post(wire.path, content=body, headers=self.headers | headers)

            return await asyncio.gather(*map(ask, inputs))


def start(server: Server, content: bytes, folder: Path, peers: Path) -> Running:
    """Start a server, in a new folder; it may not listen yet.

    Raises:
        RuntimeError: the server is not installed.
    """
    folder.mkdir()
    if isinstance(server, Ours):
        tree, headers = server.start(content, folder)
        return Running(server, tree, tree.url, headers, server.expected(content))
    port, model = free_port(), folder / "model.onnx"
    model.write_bytes(content)
    command, variables = server.command(peers, model, port), server.variables(peers, model)
    expected = _echo if server.kind == "limit" else _scores(content)
    return Running(server, Tree(command, folder / "log", variables), f"http://127.0.0.1:{port}", {}, expected)


def _echo(x: Array) -> Answers:
    return {"echo": x}


def _scores(content: bytes) -> Callable[[Array], Answers]:
    session = onnxruntime.InferenceSession(content)
    return lambda x: {"scores": np.asarray(session.run(None, {"input": x})[0])}
