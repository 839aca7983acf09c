"""Time and memory to derive the sound bound against the number of parameters.

    python -m benchmarks.bound_growth

Three hidden layers of one width, 64 inputs and 10 scores. Weights are from a normal distribution; or in every
row the absolute values add up to 1, three quarters of that in one entry, much like in networks trained for
l-infinity. Each size and norm is read and bounded in a new process. Exponents are those of the
processor time between one size and the one before: 1 is linear. Last, a certificate, 1,000 at a time.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from fuzz.sizes import model, node
from lipmodel.certify.lipschitz import bound_lipschitz
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.network.reader.read import read_onnx
from lipmodel.norms import Norm

INPUTS, SCORES, HIDDEN = 64, 10, 3
TABLES = (("rows", Norm.INF), ("normal", Norm.INF), ("normal", Norm.TWO))


def width_of(parameters: float) -> int:
    """Return the width of the hidden layers for about so many parameters."""
    b, c = INPUTS + SCORES, -parameters
    a = HIDDEN - 1
    return max(8, round((-b + math.sqrt(b * b - 4 * a * c)) / (2 * a)))


def weights_of(rng: np.random.Generator, m: int, n: int, kind: str) -> NDArray[np.float32]:
    """Return (m, n) weights of a kind of ``TABLES``."""
    weight = rng.standard_normal((m, n), np.float32)
    if kind == "normal":
        return weight / np.float32(math.sqrt(n))
    weight /= 4.0 * np.abs(weight).sum(axis=1, keepdims=True)
    weight[np.arange(m), rng.integers(n, size=m)] = 0.75
    return weight


def write_network(path: Path, width: int, kind: str) -> int:
    """Write a ReLU network; return the number of its parameters."""
    rng = np.random.default_rng(0)
    sizes = [INPUTS, *[width] * HIDDEN, SCORES]
    nodes, weights, last = [], {}, "x"
    for i, (n, m) in enumerate(pairwise(sizes)):
        weights |= {f"w{i}": weights_of(rng, m, n, kind), f"b{i}": np.zeros(m, np.float32)}
        nodes.append(node("Gemm", [last, f"w{i}", f"b{i}"], [f"h{i}"], transB=1))
        nodes.append(node("Relu", [f"h{i}"], [last := f"r{i}"]))
    path.write_bytes(model(nodes[:-1], weights, ("N", INPUTS), (f"h{HIDDEN}",)))
    return sum(m * (n + 1) for n, m in pairwise(sizes))


def measure(path: Path, norm: Norm) -> dict[str, float]:
    """Return the seconds of each step, and memory, measured in this process."""
    measured, last = {}, time.process_time()

    def lap(name: str) -> None:
        nonlocal last
        measured[name], last = time.process_time() - last, time.process_time()

    def mebibytes() -> float:
        # Not ru_maxrss, which a process begins with that of the one that started it.
        status = Path("/proc/self/status").read_text("ascii")
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 2**10

    file = read_onnx(path)
    lap("read")
    measured["read_mib"] = mebibytes()
    bound = bound_lipschitz(file.graph, norm)
    assert bound.bound_per_score_pair.shape == (SCORES, SCORES)
    lap("bound")
    measured["mib"] = mebibytes()
    predictor = CertifiedPredictor(file)
    predictor.rounding()
    lap("rounding")
    rows = np.random.default_rng(0).normal(size=(1000, INPUTS))
    predictor.predict(rows, norm)
    last = time.process_time()
    predictor.predict(rows, norm)
    lap("row")
    return measured


@click.command()
@click.argument("file", required=False, type=Path)
@click.option("--norm", type=Norm)
@click.option("--parameters", multiple=True, type=float, default=[1e4, 1e5, 1e6, 1e7, 1e8], show_default=True)
def main(file: Path | None, norm: Norm, parameters: tuple[float, ...]) -> None:
    """Print the tables; with FILE, the JSON of one measurement."""
    if file is not None:
        print(json.dumps(measure(file, norm)))
        return
    for kind, measured in TABLES:
        print(f"\n{kind}, norm {measured}\n")
        print(
            "| parameters | width | read s | bound s | exponent | rounding and self-check s | exponent "
            "| MiB read | MiB | µs a certificate |"
        )
        print("|---" * 10 + "|")
        before: dict[str, float] = {}
        for wanted in parameters:
            with tempfile.TemporaryDirectory() as name:
                path, width = Path(name) / "net.onnx", width_of(wanted)
                count = write_network(path, width, kind)
                command = [sys.executable, "-m", "benchmarks.bound_growth", path, "--norm", measured.value]
                found = {"count": count} | json.loads(subprocess.check_output(command))
            grown = dict.fromkeys(("bound", "rounding"), "")
            for step in grown if before else ():
                exponent = math.log(found[step] / before[step]) / math.log(count / before["count"])
                grown[step] = f"{exponent:.2f}"
            print(f"| {count:,} | {width} | {found['read']:.2f} | {found['bound']:.3f} | {grown['bound']} "
                  f"| {found['rounding']:.3f} | {grown['rounding']} | {found['read_mib']:.0f} "
                  f"| {found['mib']:.0f} | {1e3 * found['row']:.1f} |",
                  flush=True)  # fmt: skip
            before = found


if __name__ == "__main__":
    main()
