"""A models folder with 200 hostile files, of which 20 take for ever, before 20 good ones.

    python -m benchmarks.hostile_folder [--check-seconds 5]

Four runs of ``lipserve``: from nothing, killed in the middle and started again, with every file known, and
with the good files alone while each hostile one is dropped beside them under load. Prints when the good
models answered, what became of the others, how large the serving process was, and the times of predictions.
Fails where a good model takes over 30 s, a hostile one has no reason in the end, or a prediction fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
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
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from benchmarks.ours import COMMAND
from benchmarks.processes import Tree, free_port
from tests.networks import groupsort_net, to_file

HANGS, GOOD, ALL = 20, 20, 200
MOST_SECONDS = 30.0
MOST_MIB = 400
END_SECONDS = 1800.0
BODY = {"inputs": [[0.5, 0.25]]}


def file_of(
    nodes: list[NodeProto], constants: dict[str, NDArray[np.generic]], shape: tuple[int, ...] = (2,)
) -> bytes:
    """A file whose nodes lead from ``x`` to ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def division(number: int) -> bytes:
    """The least integer by -1: natively divided it ends the process (SIGFPE)."""
    nodes = [helper.make_node("Div", ["a", "b"], ["c"]), helper.make_node("Reshape", ["x", "c"], ["y"])]
    return file_of(nodes, {"a": np.array([-(2**63), number]), "b": np.array([-1, 1])})


def split(number: int) -> bytes:
    """A constant Split into another number of parts than it says: natively it ends the process (SIGABRT)."""
    nodes = [
        helper.make_node("Split", ["a"], ["c", "d"], num_outputs=7),
        helper.make_node("Gemm", ["x", "c"], ["y"]),
    ]
    return file_of(nodes, {"a": np.full((4, 2), number, dtype=np.float32)})


def chain(number: int) -> bytes:
    """A shape multiplied by itself again and again."""
    nodes = [helper.make_node("Shape", ["x"], ["s0"])]
    nodes += [helper.make_node("Mul", [f"s{i}", f"s{i}"], [f"s{i + 1}"]) for i in range(40 + number)]
    nodes += [helper.make_node("Reshape", ["x", f"s{40 + number}"], ["y"])]
    return file_of(nodes, {})


def bomb(number: int) -> bytes:
    """Weights that are doubled and doubled again."""
    nodes = [helper.make_node("Concat", [f"w{i}"] * 16, [f"w{i + 1}"], axis=0) for i in range(9)]
    nodes += [helper.make_node("Gemm", ["x", "w9"], ["y"], transB=1)]
    return file_of(nodes, {"w0": np.full((1, 2), number, dtype=np.float32)})


def wide(number: int) -> bytes:
    """Inputs of the most numbers that are accepted: one row, computed with, is 128 MiB."""
    nodes = [
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[2048, 2048], strides=[2048, 2048]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Add", ["f", "b"], ["y"]),
    ]
    return file_of(nodes, {"b": np.full(4, number, dtype=np.float32)}, (1, 4096, 4096))


def nested(number: int) -> bytes:
    """Graphs within graphs."""
    content = b""
    for tag in [1, 5, 6] * (2000 + number) + [7]:
        length, rest = b"", len(content)
        while rest >= 128:
            length, rest = length + bytes([rest % 128 | 128]), rest // 128
        content = bytes([tag << 3 | 2]) + length + bytes([rest]) + content
    return content


def truncated(number: int) -> bytes:
    """A good file cut short."""
    return good(number)[: 100 + number]


def garbage(number: int) -> bytes:
    """Random bytes."""
    return np.random.default_rng(number).bytes(1000)


def convolutions(number: int) -> bytes:
    """A small file of an honest network on large images, whose bounds take minutes."""
    rng, channels, side = np.random.default_rng(number), 8, 128
    nodes, constants, last = [], {}, "x"
    for i in range(12):
        constants[f"k{i}"] = (
            rng.normal(size=(channels, 1 if i == 0 else channels, 3, 3)).astype(np.float32) / 9
        )
        nodes.append(helper.make_node("Conv", [last, f"k{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    constants["end"] = rng.normal(size=(2, channels, 8, 8)).astype(np.float32)
    nodes.append(helper.make_node("Conv", [last, "end"], ["e"], strides=[120, 120], pads=[0, 0, 0, 0]))
    nodes.append(helper.make_node("Flatten", ["e"], ["y"]))
    return file_of(nodes, constants, (1, side, side))


def good(number: int) -> bytes:
    """A small certified network."""
    return to_file(groupsort_net((2, 64, 64), 1, seed=number))


QUICK = (division, split, chain, bomb, wide, nested, truncated, garbage)


def hostile() -> Iterator[tuple[str, bytes]]:
    """Names and contents, in the order in which a folder lists them."""
    for i in range(HANGS):
        yield f"a-hang-{i:03}", convolutions(i)
    for i in range(ALL - HANGS):
        make = QUICK[i % len(QUICK)]
        yield f"b-{make.__name__}-{i:03}", make(i)


class Service:
    """A running ``lipserve``."""

    def __init__(self, folder: Path, check_seconds: float) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        flags = [
            "--models",
            str(folder / "models"),
            "--port",
            str(port),
            "--check-seconds",
            f"{check_seconds:g}",
        ]
        self.begun = time.monotonic()
        self.tree = Tree([*COMMAND, *flags], folder / "log", {})
        self.client = httpx.Client(base_url=self.url, timeout=60)
        self.most_bytes = 0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.begun

    def models(self) -> dict[str, dict[str, str]]:
        """As listed now, by name; none before it answers."""
        if not self.tree.running:
            raise RuntimeError(f"the service ended: {self.tree.last_line()}")
        with suppress(OSError, IndexError):
            pages = Path(f"/proc/{self.tree.pids()[0]}/statm").read_text().split()[1]
            self.most_bytes = max(self.most_bytes, int(pages) * os.sysconf("SC_PAGESIZE"))
        with suppress(httpx.TransportError):
            return {model["name"]: model for model in self.client.get("/v1/models").json()["models"]}
        return {}

    def until(self, condition: str, count: int, seconds: float) -> float:
        """Seconds since the start until so many models have that status."""
        while sum(model["status"] == condition for model in self.models().values()) < count:
            if self.seconds > seconds:
                raise RuntimeError(f"after {seconds:g} s fewer than {count} are {condition}")
            time.sleep(0.1)
        return self.seconds

    def kill(self) -> None:
        """Ends it as a crash would."""
        os.kill(self.tree.pids()[0], signal.SIGKILL)
        self.tree.end()


async def ask(url: str, stop: asyncio.Event) -> list[float]:
    """Milliseconds of predictions, one after the other; raises where one fails."""
    times = []
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        while not stop.is_set():
            begun = time.perf_counter()
            answer = await client.post("/v1/models/z-good-000/predict", json=BODY)
            if answer.status_code != 200 or not answer.json()["predictions"][0]["certified_radius"] > 0:
                raise RuntimeError(f"a prediction failed: {answer.status_code} {answer.text[:200]}")
            times.append((time.perf_counter() - begun) * 1000)
            await asyncio.sleep(0.005)
    return times


async def under_load(service: Service, models: Path) -> tuple[list[float], list[float]]:
    """Times of predictions before, and while each hostile file is dropped into the folder."""
    phases = []
    for dropping in (False, True):
        stop = asyncio.Event()
        asking = asyncio.create_task(ask(service.url, stop))
        if dropping:
            for name, content in await asyncio.to_thread(lambda: [*hostile()]):
                (models / f".{name}").write_bytes(content)
                (models / f".{name}").rename(models / f"{name}.onnx")
                await asyncio.sleep(0.1)
        await asyncio.sleep(10)
        stop.set()
        phases.append(await asking)
    return phases[0], phases[1]


@click.command()
@click.option("--check-seconds", default=5.0, show_default=True)
def main(check_seconds: float) -> None:
    """Prints what happened; exits with 1 where it should not have."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "models"
        models.mkdir()
        for file, content in hostile():
            (models / f"{file}.onnx").write_bytes(content)
        for i in range(GOOD):
            (models / f"z-good-{i:03}.onnx").write_bytes(good(i))
        service = Service(folder, check_seconds)
        service.until("served", GOOD // 2, MOST_SECONDS)
        service.kill()
        print(f"killed {service.seconds:.1f} s after the start, {GOOD // 2} or more served")
        service = Service(folder, check_seconds)
        seconds = service.until("served", GOOD, MOST_SECONDS)
        left = Counter(model["status"] for model in service.models().values())
        print(f"started again: {GOOD} served after {seconds:.1f} s, {left['checking']} being checked then")
        seconds = service.until("refused", ALL, END_SECONDS)
        reasons = {
            model["name"]: model["reason"] for model in service.models().values() if model.get("reason")
        }
        print(f"{len(reasons)} refused after {seconds:.0f} s; the serving process: "
              f"{service.most_bytes / 2**20:.0f} MiB at most")  # fmt: skip
        shown = Counter((name.split("-")[1], reason[:100]) for name, reason in sorted(reasons.items()))
        for (kind, reason), count in shown.items():
            print(f"  {count:3} {kind}: {reason}")
        largest = service.most_bytes
        service.kill()
        service = Service(folder, check_seconds)
        print(f"every file known: {GOOD} served after {service.until('served', GOOD, MOST_SECONDS):.1f} s, "
              f"{ALL} refused after {service.until('refused', ALL, MOST_SECONDS):.1f} s")  # fmt: skip
        service.tree.end()
        for path in models.glob("[ab]-*.onnx"):
            path.unlink()
        shutil.rmtree(folder / "models.state")
        service = Service(folder, check_seconds)
        service.until("served", GOOD, MOST_SECONDS)
        before, while_dropped = asyncio.run(under_load(service, models))
        tails = [quantiles(times, n=100)[98] for times in (before, while_dropped)]
        print(f"{len(before)} predictions before, p99 {tails[0]:.1f} ms; {len(while_dropped)} while "
              f"{ALL} files are dropped, p99 {tails[1]:.1f} ms; none failed")  # fmt: skip
        service.until("refused", ALL, END_SECONDS)
        largest = max(largest, service.most_bytes)
        service.tree.end()
        print(json.dumps({"resident_mib": largest / 2**20, "p99_ratio": tails[1] / tails[0]}))
        sys.exit(int(largest > MOST_MIB * 2**20 or tails[1] > 3 * tails[0]))


if __name__ == "__main__":
    main()
