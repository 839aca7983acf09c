"""Requests to tighten that their clients abandon: latency of another client, memory, and graceful shutdown.

    python -m benchmarks.abandoned [--count 100] [--rounds 3] [--workers 1]

The model has 4,804 ReLUs; tightening one radius takes half a minute. Another client sends 2,000 rows at a
time: before; after each of so many clients has asked to tighten and disconnected; while as many wait for
their answers. Then memory after each further round of abandoned requests, and the seconds from SIGTERM to the
end while clients wait. Exit status 1 where the other client waits more than twice as long as before, the
shutdown takes longer than documented, or memory grows by more than 10% after the first round.
"""

from __future__ import annotations

import json
import signal
import socket
import statistics
import sys
import time
from contextlib import ExitStack

import click
import httpx
import numpy as np

from benchmarks.lipserve import Lipserve, raw_request, served
from benchmarks.wire import JSON, PREDICT_NPY
from service.http.server import LAST_SECONDS, SETTLE_SECONDS
from service.settings import Settings
from tests.networks import convolutional_net, to_file

ROWS, TIMES = 2000, 7


class Measurement:
    """The requests of both kinds of clients to one server."""

    def __init__(self, server: Lipserve, count: int) -> None:
        x = np.random.default_rng(0).uniform(size=(ROWS, 784)).round(3)
        body = json.dumps({"inputs": x[:10].tolist(), "tighten": True}).encode()
        self._server, self._count = server, count
        self._slow = raw_request(PREDICT_NPY.path, body, JSON)
        self._headers, self._rows = PREDICT_NPY.write(x.astype(np.float32))
        self._other = httpx.Client(base_url=server.url, timeout=600)

    def ask(self) -> list[socket.socket]:
        """Send ``count`` requests to tighten; return their connections."""
        connections = []
        for _ in range(self._count):
            connections.append(socket.create_connection(("127.0.0.1", self._server.port)))
            connections[-1].sendall(self._slow)
        return connections

    def abandon(self) -> None:
        """Send ``count`` requests to tighten, and close their connections."""
        for connection in self.ask():
            connection.close()

    def predict(self) -> float:
        """Return the seconds that a prediction of the other client takes."""
        begun = time.perf_counter()
        answer = self._other.post(PREDICT_NPY.path, content=self._rows, headers=self._headers)
        answer.raise_for_status()
        return time.perf_counter() - begun


def measure(server: Lipserve, count: int, rounds: int) -> bool:
    """Print the figures; return True where one is worse than documented."""
    measurement = Measurement(server, count)
    predict, abandon = measurement.predict, measurement.abandon
    predict()
    before = statistics.median(predict() for _ in range(TIMES))
    abandoned = statistics.median((abandon(), predict())[1] for _ in range(TIMES))
    memory = []
    for _ in range(rounds):
        abandon()
        time.sleep(2)
        predict()
        memory.append(server.resident_bytes() / 2**20)
    with ExitStack() as stack:
        for connection in measurement.ask():
            stack.enter_context(connection)
        waiting = statistics.median(predict() for _ in range(TIMES))
        server.signal(signal.SIGTERM)
        begun = time.perf_counter()
        server.root.wait()
        end = time.perf_counter() - begun
    settings = Settings()
    promised = settings.drain_seconds + SETTLE_SECONDS + settings.shutdown_seconds + LAST_SECONDS
    print(f"{ROWS} rows of another client, median of {TIMES}: {before:.2f} s before, {abandoned:.2f} s after")
    print(f"{count} abandoned requests, {waiting:.2f} s beside {count} that wait")
    print(f"memory after rounds of {count}: {', '.join(f'{m:.0f}' for m in memory)} MiB")
    print(f"SIGTERM: ended after {end:.1f} s; limit {promised:g} s")
    return max(abandoned, waiting) > 2 * before or end > promised or memory[-1] > 1.1 * memory[0]


@click.command()
@click.option("--count", default=100, show_default=True, help="Clients that ask to tighten.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--workers", default=1, show_default=True)
def main(count: int, rounds: int, workers: int) -> None:
    """Print latency, memory and the time of the shutdown."""
    with served({"model": to_file(convolutional_net())}, "--workers", workers) as server:
        sys.exit(measure(server, count, rounds))


if __name__ == "__main__":
    main()
