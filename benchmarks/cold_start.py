"""From the start of ``lipserve`` with one small model to its first certified answer, and its memory then.

    python -m benchmarks.cold_start [--rounds 5]
    python -m benchmarks.cold_start --rounds 10 --baseline ../old

In turns with the minimum that could answer: Python that imports numpy and onnxruntime, opens the same file
and runs it once. Medians, of a new file, which is checked first, and of a known one. Fails if a server has
loaded torch. With ``--baseline`` another tree's server is measured in turns with this one.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click

from benchmarks.alternating import baseline_option, environments, in_rounds, table
from benchmarks.lipserve import Lipserve
from benchmarks.ours import prepare
from tests.networks import groupsort_net, to_file

BASELINE = """
import sys
import numpy
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
session.run(None, {"input": numpy.zeros((1, 2), dtype=numpy.float32)})
print(open("/proc/self/statm").read().split()[1])
"""
"""Prints the pages that it has in memory."""
LIMIT_SECONDS = 60
MIB = 2**20


class Measured(NamedTuple):
    """Time until the first answer, and memory and processor time at that moment."""

    seconds: float
    mib: float
    cpu_seconds: float


def serve_twice(content: bytes, variables: Mapping[str, str]) -> tuple[Measured, Measured]:
    """Measure a start with a new file, and a second start with the same file."""
    with tempfile.TemporaryDirectory() as name:
        models = prepare(Path(name) / "service", content, "float64")
        return serve_once(models, variables), serve_once(models, variables)


def serve_once(models: Path, variables: Mapping[str, str]) -> Measured:
    """Start a server, with variables of the environment, ask it once, and end it.

    Raises:
        RuntimeError: the server does not answer, or has loaded torch.
    """
    begun = time.perf_counter()
    with Lipserve(models, environment=variables) as server:
        while not answers(server.port):
            if not server.running or time.perf_counter() - begun > LIMIT_SECONDS:
                raise RuntimeError(f"lipserve does not answer: {server.last_line()}")
            time.sleep(0.005)
        seconds = time.perf_counter() - begun
        if any("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in server.pids()):
            raise RuntimeError("lipserve has loaded torch")
        return Measured(seconds, server.resident_bytes() / MIB, server.cpu_seconds())


def answers(port: int) -> bool:
    """Return True if a prediction is answered with a radius."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_SECONDS)
    with suppress(OSError):
        body, headers = json.dumps({"inputs": [[0.5, 0.25]]}), {"Content-Type": "application/json"}
        connection.request("POST", "/v1/models/model/predict", body, headers)
        answer = connection.getresponse()
        found = json.load(answer)
        return answer.status == 200 and found["predictions"][0]["certified_radius"] > 0
    return False


def least_once(content: bytes) -> tuple[float, float]:
    """Return seconds until ``BASELINE`` has ended, and its MiB."""
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(content)
        file.flush()
        begun = time.perf_counter()
        command = [sys.executable, "-c", BASELINE, file.name]
        pages = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return time.perf_counter() - begun, int(pages) * 4096 / MIB


def against(baseline: Path, content: bytes, rounds: int) -> str:
    """Return the ratios to another tree, as Markdown."""
    trees = environments(baseline)

    def measure(tree: str) -> dict[str, float]:
        costs = {}
        for file, measured in zip(("new", "known"), serve_twice(content, trees[tree]), strict=True):
            costs |= {f"a {file} file: {name}": value for name, value in measured._asdict().items()}
        return costs

    return table(in_rounds(measure, rounds), "from the start to the first answer")


@click.command()
@click.option("--rounds", default=5, show_default=True)
@baseline_option
def main(rounds: int, baseline: Path | None) -> None:
    """Print the medians, or the ratios to a baseline."""
    content = to_file(groupsort_net((2, 64, 64), 1))
    if baseline is not None:
        print(against(baseline, content, rounds))
        return
    measured = [(*serve_twice(content, {}), least_once(content)) for _ in range(rounds)]
    print(f"| median of {rounds} | seconds | MiB |\n|---|---|---|")
    titles = (
        "lipserve, a new file: first certified answer (memory with the checkers')",
        "lipserve, a known file: first certified answer",
        "Python, numpy, onnxruntime: first scores",
    )
    for title, taken in zip(titles, zip(*measured, strict=True), strict=True):
        print(f"| {title} | {median(one[0] for one in taken):.2f} | {median(one[1] for one in taken):.0f} |")


if __name__ == "__main__":
    main()
