"""Requests to tighten that their clients abandon: another caller's time, memory, and the end of the service.

    python -m benchmarks.abandoned [--count 100] [--rounds 3] [--workers 1]

A network of 4,804 ReLUs is served, of which tightening one radius takes half a minute. Another
caller asks for 2,000 rows at a time, which a thread answers: before; after so many clients have
asked to tighten and left at once; while as many ask and wait. Then memory after each further round
of abandoned requests, and the seconds from SIGTERM to the end while clients wait. Exits with 1
where the other caller waits more than twice as long, the end takes longer than promised, or memory
grows by more than 10% after the first round.
"""

from __future__ import annotations

import io
import json
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click
import httpx
import numpy as np

from benchmarks.processes import Tree, free_port
from service.http.server import LAST_SECONDS, SETTLE_SECONDS
from service.settings import Settings
from tests.networks import convolutional_net, to_file

ROWS, TIMES = 2000, 7
PATH = "/v1/models/slow/predict"


def ask(port: int, body: bytes) -> socket.socket:
    """A connection on which a request was sent."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def seconds_of(work: Callable[[], object]) -> float:
    """Median over some times."""
    taken = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


@click.command()
@click.option("--count", default=100, show_default=True, help="Clients that ask to tighten.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--workers", default=1, show_default=True)
def main(count: int, rounds: int, workers: int) -> None:
    """Prints what was measured."""
    x = np.random.default_rng(0).uniform(size=(ROWS, 784)).round(3)
    slow = json.dumps({"inputs": x[:10].tolist(), "tighten": True}).encode()
    rows = io.BytesIO()
    np.save(rows, x.astype(np.float32))
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        (models / "slow.onnx").write_bytes(to_file(convolutional_net()))
        port = free_port()
        command = [sys.executable, "-m", "service", "--models", str(models), "--port", str(port)]
        tree = Tree([*command, "--workers", str(workers)], Path(folder) / "log", {})
        try:
            sys.exit(_measure(tree, port, slow, rows.getvalue(), count, rounds))
        finally:
            tree.end()


def _measure(tree: Tree, port: int, slow: bytes, rows: bytes, count: int, rounds: int) -> bool:
    """Return whether anything was worse than promised."""
    while "ready at" not in tree.last_words():
        time.sleep(0.1)

    def abandon() -> None:
        for _ in range(count):
            ask(port, slow).close()

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as other, ExitStack() as stack:

        def predict() -> None:
            answer = other.post(PATH, content=rows, headers={"Content-Type": "application/x-npy"})
            answer.raise_for_status()

        predict()
        before = seconds_of(predict)

        def abandon_and_predict() -> None:
            abandon()
            begun = time.perf_counter()
            predict()
            taken.append(time.perf_counter() - begun)

        taken: list[float] = []
        seconds_of(abandon_and_predict)
        abandoned = statistics.median(taken)
        memory = []
        for _ in range(rounds):
            abandon()
            time.sleep(2)
            predict()
            memory.append(tree.resident_bytes() / 2**20)
        for _ in range(count):
            stack.enter_context(ask(port, slow))
        waiting = seconds_of(predict)
        tree.signal(signal.SIGTERM)
        begun = time.perf_counter()
        while tree.running:
            time.sleep(0.05)
        end = time.perf_counter() - begun
    settings = Settings()
    promised = settings.drain_seconds + SETTLE_SECONDS + settings.shutdown_seconds + LAST_SECONDS
    print(f"{ROWS} rows of another caller, median of {TIMES}: {before:.2f} s before, {abandoned:.2f} s after")
    print(f"{count} abandoned requests, {waiting:.2f} s beside {count} that wait")
    print(f"memory after rounds of {count}: {', '.join(f'{m:.0f}' for m in memory)} MiB")
    print(f"SIGTERM: ended after {end:.1f} s; {promised:g} s are promised")
    return max(abandoned, waiting) > 2 * before or end > promised or memory[-1] > 1.1 * memory[0]


if __name__ == "__main__":
    main()
