"""A models folder with 200 hostile files, 20 of which take too long to check, before 20 good ones.

    python -m benchmarks.hostile_folder [--check-seconds 5]

Four runs of ``lipserve``: from nothing; killed in the middle and restarted; with every file known; with the
good files alone while each hostile one is added under load. Prints the seconds until the good models are
served, the reasons given for the others, the memory of the serving process, and the latency of predictions.
Fails where a good model takes over 30 s, a hostile one has no reason in the end, or a prediction fails.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import quantiles

import click
import httpx
import numpy as np

from benchmarks.lipserve import Lipserve, clients
from benchmarks.processes import resident_bytes
from fuzz.sizes import chain, model, node, varint
from tests.networks import groupsort_net, to_file

HANGS, GOOD, ALL = 20, 20, 200
MAX_SECONDS = 30.0
MAX_MIB = 400
END_SECONDS = 1800.0
BODY = {"inputs": [[0.5, 0.25]]}


def division(number: int) -> bytes:
    """Divide the least integer by -1, which ends the process natively (SIGFPE)."""
    nodes = [node("Div", ["a", "b"], ["c"]), node("Reshape", ["x", "c"], ["y"])]
    return model(nodes, {"a": np.array([-(2**63), number]), "b": np.array([-1, 1])}, ("N", 2))


def split(number: int) -> bytes:
    """Split a constant into too few parts, which ends the process natively (SIGABRT)."""
    nodes = [node("Split", ["a"], ["c", "d"], num_outputs=7), node("Gemm", ["x", "c"], ["y"])]
    return model(nodes, {"a": np.full((4, 2), number, dtype=np.float32)}, ("N", 2))


def powers(number: int) -> bytes:
    """Multiply a shape by itself repeatedly."""
    ends = node("Shape", ["x"], ["s"]), node("Reshape", ["x", f"t{40 + number}"], ["y"])
    return model([ends[0], *chain("Mul", "s", 40 + number), ends[1]], shape=("N", 2))


def bomb(number: int) -> bytes:
    """Join weights with themselves repeatedly."""
    nodes = [node("Concat", [f"w{i}"] * 16, [f"w{i + 1}"], axis=0) for i in range(9)]
    nodes += [node("Gemm", ["x", "w9"], ["y"], transB=1)]
    return model(nodes, {"w0": np.full((1, 2), number, dtype=np.float32)}, ("N", 2))


def wide(number: int) -> bytes:
    """Read inputs of the maximum size: one row takes 128 MiB in float64."""
    nodes = [
        node("AveragePool", ["x"], ["p"], kernel_shape=[2048, 2048], strides=[2048, 2048]),
        node("Flatten", ["p"], ["f"]),
        node("Add", ["f", "b"], ["y"]),
    ]
    return model(nodes, {"b": np.full(4, number, dtype=np.float32)}, ("N", 1, 4096, 4096))


def nested(number: int) -> bytes:
    """Nest graphs within graphs."""
    content = b""
    for tag in [1, 5, 6] * (2000 + number) + [7]:
        content = bytes([tag << 3 | 2]) + varint(len(content)) + content
    return content


def truncated(number: int) -> bytes:
    """Return a good file cut short."""
    return good(number)[: 100 + number]


def garbage(number: int) -> bytes:
    """Return random bytes."""
    return np.random.default_rng(number).bytes(1000)


def convolutions(number: int) -> bytes:
    """Return a small file of a regular network on large images, which takes minutes to bound."""
    rng, channels, side = np.random.default_rng(number), 8, 128
    nodes, constants, last = [], {}, "x"
    for i in range(12):
        kernel = rng.normal(size=(channels, channels if i else 1, 3, 3))
        constants[f"k{i}"] = kernel.astype(np.float32) / 9
        nodes.append(node("Conv", [last, f"k{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    constants["end"] = rng.normal(size=(2, channels, 8, 8)).astype(np.float32)
    nodes.append(node("Conv", [last, "end"], ["e"], strides=[120, 120], pads=[0, 0, 0, 0]))
    nodes.append(node("Flatten", ["e"], ["y"]))
    return model(nodes, constants, ("N", 1, side, side))


def good(number: int) -> bytes:
    """Return a small certified network."""
    return to_file(groupsort_net((2, 64, 64), 1, seed=number))


QUICK = (division, split, powers, bomb, wide, nested, truncated, garbage)


def hostile() -> Iterator[tuple[str, bytes]]:
    """Yield names and contents, in the order in which a folder lists them."""
    for i in range(HANGS):
        yield f"a-hang-{i:03}", convolutions(i)
    for i in range(ALL - HANGS):
        make = QUICK[i % len(QUICK)]
        yield f"b-{make.__name__}-{i:03}", make(i)


class Service(Lipserve):
    """A ``lipserve`` with limits on checks, and the statuses of its models."""

    def __init__(self, models: Path, check_seconds: float) -> None:
        self.begun = time.monotonic()
        super().__init__(models, "--check-seconds", f"{check_seconds:g}")
        self.client = httpx.Client(base_url=self.url, timeout=60)
        self.max_bytes = 0

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.begun

    def statuses(self) -> dict[str, dict[str, str]]:
        """Return the list of models, by name; nothing until the server answers."""
        if not self.running:
            raise RuntimeError(f"the service ended: {self.last_line()}")
        self.max_bytes = max(self.max_bytes, resident_bytes(self.root.pid))
        with suppress(httpx.TransportError):
            return {model["name"]: model for model in self.client.get("/v1/models").json()["models"]}
        return {}

    def until(self, status: str, count: int, seconds: float) -> float:
        """Wait until so many models have a status; return the seconds since the start."""
        while sum(model["status"] == status for model in self.statuses().values()) < count:
            if self.seconds > seconds:
                raise RuntimeError(f"after {seconds:g} s fewer than {count} are {status}")
            time.sleep(0.1)
        return self.seconds

    def kill(self) -> None:
        """Kill the server, as a crash would."""
        self.root.kill()
        self.end()


async def under_load(service: Service) -> tuple[list[float], list[float]]:
    """Return milliseconds of predictions, one after another: before, and while hostile files are added.

    Raises:
        RuntimeError: a prediction failed.
    """
    phases: list[list[float]] = []

    async def ask(client: httpx.AsyncClient) -> None:
        begun = time.perf_counter()
        answer = await client.post("/v1/models/z-good-000/predict", json=BODY)
        if answer.status_code != 200 or not answer.json()["predictions"][0]["certified_radius"] > 0:
            raise RuntimeError(f"a prediction failed: {answer.status_code} {answer.text[:200]}")
        phases[-1].append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(0.005)

    for files in ([], await asyncio.to_thread(lambda: [*hostile()])):
        phases.append([])
        async with clients(service.url, ask):
            for name, content in files:
                draft = service.models / f".{name}"
                draft.write_bytes(content)
                draft.rename(service.models / f"{name}.onnx")
                await asyncio.sleep(0.1)
            await asyncio.sleep(10)
    return phases[0], phases[1]


@click.command()
@click.option("--check-seconds", default=5.0, show_default=True)
def main(check_seconds: float) -> None:
    """Print the figures; exit with status 1 where memory or latency exceeds its limit."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "models"
        models.mkdir()
        for file, content in hostile():
            (models / f"{file}.onnx").write_bytes(content)
        for i in range(GOOD):
            (models / f"z-good-{i:03}.onnx").write_bytes(good(i))
        service = Service(models, check_seconds)
        service.until("served", GOOD // 2, MAX_SECONDS)
        service.kill()
        print(f"killed {service.seconds:.1f} s after the start, {GOOD // 2} or more served")
        service = Service(models, check_seconds)
        seconds = service.until("served", GOOD, MAX_SECONDS)
        left = Counter(model["status"] for model in service.statuses().values())
        print(f"started again: {GOOD} served after {seconds:.1f} s, {left['checking']} being checked then")
        seconds = service.until("refused", ALL, END_SECONDS)
        reasons = {name: model["reason"] for name, model in service.statuses().items() if model.get("reason")}
        print(f"{len(reasons)} refused after {seconds:.0f} s; the serving process: "
              f"{service.max_bytes / 2**20:.0f} MiB at most")  # fmt: skip
        shown = Counter((name.split("-")[1], reason[:100]) for name, reason in sorted(reasons.items()))
        for (kind, reason), count in shown.items():
            print(f"  {count:3} {kind}: {reason}")
        largest = service.max_bytes
        service.kill()
        service = Service(models, check_seconds)
        print(f"every file known: {GOOD} served after {service.until('served', GOOD, MAX_SECONDS):.1f} s, "
              f"{ALL} refused after {service.until('refused', ALL, MAX_SECONDS):.1f} s")  # fmt: skip
        service.end()
        for path in models.glob("[ab]-*.onnx"):
            path.unlink()
        shutil.rmtree(folder / "models.state")
        service = Service(models, check_seconds)
        service.until("served", GOOD, MAX_SECONDS)
        before, while_dropped = asyncio.run(under_load(service))
        tails = [quantiles(times, n=100)[98] for times in (before, while_dropped)]
        print(f"{len(before)} predictions before, p99 {tails[0]:.1f} ms; {len(while_dropped)} while "
              f"{ALL} files are dropped, p99 {tails[1]:.1f} ms; none failed")  # fmt: skip
        service.until("refused", ALL, END_SECONDS)
        largest = max(largest, service.max_bytes)
        service.end()
        print(json.dumps({"resident_mib": largest / 2**20, "p99_ratio": tails[1] / tails[0]}))
        sys.exit(int(largest > MAX_MIB * 2**20 or tails[1] > 3 * tails[0]))


if __name__ == "__main__":
    main()
