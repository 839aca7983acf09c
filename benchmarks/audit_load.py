"""Latency of predictions with and without audits running beside them, over HTTP, on one machine.

    python -m benchmarks.audit_load [--seconds 10] [--rounds 3] [--model examples/models/digits.onnx]

One client sends predictions of one row over one connection, one after another. In every second part
audits keep the worker of the service busy; parts alternate, so that other load on the machine falls on both
alike. Percentiles are over all rounds.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import httpx
import numpy as np

from benchmarks.lipserve import EXAMPLES, served


@click.command()
@click.option("--seconds", default=10.0, show_default=True, help="Duration of a part.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--model", default=EXAMPLES / "digits.onnx", type=Path)
def main(seconds: float, rounds: int, model: Path) -> None:
    """Print the percentiles."""
    with served({"model": model.read_bytes()}) as server:
        measure(httpx.Client(base_url=server.url, timeout=60), seconds, rounds)


def measure(client: httpx.Client, seconds: float, rounds: int) -> None:
    """Alternate the parts and print the percentiles of each."""
    size = client.get("/v1/models/model").json()["input_size"]
    rows = np.random.default_rng(0).uniform(size=(1000, size)).tolist()
    predict(client, rows, 1.0)
    quiet, busy, audited = [], [], 0
    for _ in range(rounds):
        quiet += predict(client, rows, seconds)
        audits = [start_audit(client) for _ in range(30)]
        while not any(client.get(url).json()["state"] == "running" for url in audits):
            time.sleep(0.05)
        busy += predict(client, rows, seconds)
        states = [client.delete(url).json()["state"] for url in audits]
        assert states[-1] == "cancelled", "the audits ended before the part did: start more"
        audited += states.count("done")
        while any(client.get(url).json()["finished"] is None for url in audits):
            time.sleep(0.05)
    for name, taken in [("without audits", quiet), ("with audits", busy)]:
        shown = ", ".join(f"p{p:g} {np.percentile(taken, p):.2f} ms" for p in (50, 90, 99))
        print(f"{name:15} {len(taken):6} predictions: {shown}")
    ratio = np.percentile(busy, 99) / np.percentile(quiet, 99)
    print(f"p99 with / without: {ratio:.2f}; audits finished meanwhile: {audited}")


def start_audit(client: httpx.Client) -> str:
    """Queue an audit and return its URL."""
    headers = {"Prefer": "respond-async"}
    answer = client.post("/v1/models/model/audits", json={"samples": 5000}, headers=headers)
    return str(answer.raise_for_status().headers["location"])


def predict(client: httpx.Client, rows: list[list[float]], seconds: float) -> list[float]:
    """Return the milliseconds of each prediction."""
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        body = {"inputs": [rows[len(taken) % len(rows)]]}
        begun = time.perf_counter()
        client.post("/v1/models/model/predict", json=body).raise_for_status()
        taken.append(1000 * (time.perf_counter() - begun))
    return taken


if __name__ == "__main__":
    main()
