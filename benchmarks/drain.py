"""SIGTERM under load, repeatedly: the number of accepted requests that are lost.

    python -m benchmarks.drain [--times 20] [--clients 32] [--workers 1] [--model examples/models/digits.onnx]

A request is *accepted* once its connection is established, by the operating system if not yet by the service.
It is *lost* if its answer then does not arrive completely, for any reason. Half of the clients keep their
connections and send one request after another, until an answer contains ``Connection: close``; half open a
connection for each request. A refused connection is no loss, as the client may try elsewhere. Also printed:
the time from the signal to the first 503 of ``/readyz``, and to the end of the process.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from benchmarks.lipserve import EXAMPLES, Lipserve, raw_request
from benchmarks.wire import PREDICT
from lipmodel.certify.predictor import CertifiedPredictor


@dataclass
class Outcome:
    """Requests of one run, by their outcome, and the times of the shutdown.

    Attributes:
        counts: requests by "answered", "refused" and "lost".
        losses: error or status line of each lost request.
        after_signal: requests answered after the signal.
        unready_seconds: from the signal to the first 503 of /readyz; None where no 503 was seen.
        end_seconds: from the signal to the end of the process.
        status: exit status of the process.
    """

    counts: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    after_signal: int = 0
    unready_seconds: float | None = None
    end_seconds: float = 0.0
    status: int | None = None


class Load:
    """Clients that send requests until a connection is refused."""

    def __init__(self, port: int, request: bytes, outcome: Outcome) -> None:
        self._port, self._request, self._outcome = port, request, outcome
        self.signalled: float | None = None

    async def client(self, *, keep: bool) -> None:
        """Send one request after another, over one connection or over a connection each."""
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self._outcome.counts["refused"] += 1
                if self.signalled is not None:
                    return
                await asyncio.sleep(0.01)
                continue
            try:
                while await self._ask(reader, writer, self._request) and keep:
                    pass
            finally:
                writer.close()

    async def readiness(self) -> None:
        """Poll /readyz, on a new connection each time, until it answers 503."""
        request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(request)
                head = await reader.readuntil(b"\r\n")
                writer.close()
            except (OSError, asyncio.IncompleteReadError):
                return
            if b" 503 " in head and self.signalled is not None:
                self._outcome.unready_seconds = time.perf_counter() - self.signalled
                return
            await asyncio.sleep(0.005)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        """Send one request; return True if the connection may be used for another."""
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = re.search(rb"content-length: (\d+)", head)
            assert length
            await reader.readexactly(int(length[1]))
        except (OSError, asyncio.IncompleteReadError) as error:
            self._outcome.counts["lost"] += 1
            self._outcome.losses.append(repr(error))
            return False
        if b" 200 ok" not in head[:20]:
            self._outcome.counts["lost"] += 1
            self._outcome.losses.append(head[:20].decode())
            return False
        self._outcome.counts["answered"] += 1
        self._outcome.after_signal += self.signalled is not None
        return b"connection: close" not in head


async def drain_once(models: Path, request: bytes, *, clients: int, workers: int, seconds: float) -> Outcome:
    """Load a new server for so many seconds, send it SIGTERM, and return the outcome of all requests."""
    outcome = Outcome()
    with Lipserve(models, "--workers", workers) as server:
        await asyncio.to_thread(server.wait_ready)
        load = Load(server.port, request, outcome)
        asking = [asyncio.create_task(load.client(keep=i % 2 == 0)) for i in range(clients)]
        asking.append(asyncio.create_task(load.readiness()))
        await asyncio.sleep(seconds)
        server.root.terminate()
        load.signalled = time.perf_counter()
        outcome.status = await asyncio.to_thread(server.root.wait)
        outcome.end_seconds = time.perf_counter() - load.signalled
        await asyncio.gather(*asking)
    return outcome


def predict_request(model: Path) -> bytes:
    """Return a request for a prediction of one row, as its bytes."""
    size = CertifiedPredictor(model).file.graph.input_size
    headers, body = PREDICT.write(np.random.default_rng(0).uniform(size=(1, size)))
    return raw_request(PREDICT.path, body, headers)


@click.command()
@click.option("--times", default=20, show_default=True)
@click.option("--clients", default=32, show_default=True)
@click.option("--workers", default=1, show_default=True)
@click.option("--model", default=EXAMPLES / "digits.onnx", type=Path)
def main(times: int, clients: int, workers: int, model: Path) -> None:
    """Print a line for each run; exit with status 1 where any request was lost."""
    rng = np.random.default_rng(0)
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        shutil.copy(model, models / "model.onnx")
        request = predict_request(model)
        for i in range(times):
            run = drain_once(models, request, clients=clients, workers=workers, seconds=rng.uniform(0.5, 2))
            outcome = asyncio.run(run)
            total += outcome.counts
            total["after"] += outcome.after_signal
            unready = outcome.unready_seconds
            print(
                f"{i + 1:3}: answered {outcome.counts['answered']} ({outcome.after_signal} late), "
                f"lost {outcome.counts['lost']}, not ready after "
                f"{'-' if unready is None else f'{1000 * unready:.0f} ms'}, ended after "
                f"{outcome.end_seconds:.2f} s with status {outcome.status} {outcome.losses[:3]}",
                flush=True,
            )
    print(f"{times} ends: {total['answered']} answered, {total['after']} of them late, {total['lost']} lost")
    sys.exit(total["lost"] > 0)


if __name__ == "__main__":
    main()
