"""Time and memory to derive the sound bound against the number of parameters.

    python -m benchmarks.bound_growth

Three hidden layers of one width, 64 inputs and 10 scores, weights from a normal distribution. Each size is
read and bounded in a process of its own, l-infinity and l2 one after the other. The exponent is that of the
processor time between one size and the one before: 1 is linear. Last, a certificate in l2, 1,000 at a time.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lipmodel.certify.graph import read_onnx
from lipmodel.certify.lipschitz import bound_lipschitz
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.rounding import FORMATS, bound_rounding
from lipmodel.norms import Norm

INPUTS, SCORES, HIDDEN = 64, 10, 3


def width_of(parameters: float) -> int:
    """Of the hidden layers, for about so many parameters."""
    b, c = INPUTS + SCORES, -parameters
    a = HIDDEN - 1
    return max(8, round((-b + math.sqrt(b * b - 4 * a * c)) / (2 * a)))


def write_network(path: Path, width: int) -> int:
    """A ReLU network; returns the number of its parameters."""
    rng = np.random.default_rng(0)
    sizes = [INPUTS, *[width] * HIDDEN, SCORES]
    nodes, weights, name = [], [], "input"
    for i, (n, m) in enumerate(pairwise(sizes)):
        weight = rng.normal(size=(m, n)).astype(np.float32) / np.float32(math.sqrt(n))
        weights += [
            numpy_helper.from_array(weight, f"w{i}"),
            numpy_helper.from_array(np.zeros(m, np.float32), f"b{i}"),
        ]
        last = i == HIDDEN
        nodes.append(
            helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], ["scores" if last else f"h{i}"], transB=1)
        )
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"]))
        name = f"r{i}"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", INPUTS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", SCORES])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return sum(m * (n + 1) for n, m in pairwise(sizes))


def measure(path: Path) -> dict[str, float]:
    """Seconds of each step, and memory, in this process."""
    told, last = {}, time.process_time()

    def lap(name: str) -> None:
        nonlocal last
        told[name], last = time.process_time() - last, time.process_time()

    graph = read_onnx(path).graph
    lap("read")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for norm in (Norm.INF, Norm.TWO):
        bound = bound_lipschitz(graph, norm)
        assert bound.bound_per_score_pair.shape == (SCORES, SCORES)
        lap(norm.value)
    bound_rounding(graph, Norm.TWO, FORMATS[np.float64])
    lap("rounding")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    predictor, rows = CertifiedPredictor(path), np.random.default_rng(0).normal(size=(1000, INPUTS))
    predictor.predict(rows, Norm.TWO)
    last = time.process_time()
    predictor.predict(rows, Norm.TWO)
    lap("row")
    return told | {"read_mib": before / 2**10, "mib": after / 2**10}


@click.command()
@click.argument("file", required=False, type=Path)
@click.option("--parameters", multiple=True, type=float, default=[1e4, 1e5, 1e6, 1e7, 1e8], show_default=True)
def main(file: Path | None, parameters: tuple[float, ...]) -> None:
    """Prints the table; of a FILE, what a process of its own measures."""
    if file is not None:
        print(json.dumps(measure(file)))
        return
    print(
        "| parameters | width | read s "
        "| l∞ s | exponent | l2 s | exponent | rounding s | MiB read | MiB | µs |"
    )
    print("|---" * 11 + "|")
    before: dict[str, float] = {}
    for wanted in parameters:
        with tempfile.TemporaryDirectory() as name:
            path, width = Path(name) / "net.onnx", width_of(wanted)
            count = write_network(path, width)
            command = [sys.executable, "-m", "benchmarks.bound_growth", str(path)]
            found = {"count": count} | json.loads(subprocess.check_output(command))
        grown = {
            norm: f"{math.log(found[norm] / before[norm]) / math.log(count / before['count']):.2f}"
            if before
            else ""
            for norm in ("inf", "2")
        }
        print(f"| {count:,} | {width} | {found['read']:.2f} | {found['inf']:.3f} | {grown['inf']} "
              f"| {found['2']:.3f} | {grown['2']} | {found['rounding']:.3f} | {found['read_mib']:.0f} "
              f"| {found['mib']:.0f} | {1e3 * found['row']:.1f} |",
              flush=True)  # fmt: skip
        before = found


if __name__ == "__main__":
    main()
