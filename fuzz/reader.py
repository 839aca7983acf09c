"""Fuzzes the reader of ONNX files: whatever the bytes, a model is read or refused, never a crash or a hang.

    python -m fuzz.reader --seconds 60 [--seed 0]

Half of the trials flip bytes of a file, half change its structure (operators, attributes, shapes, wiring,
types). What is read is also run: a file that onnxruntime runs as something other than what was read is
refused by the predictor, so a silent misreading would show here as "misread".
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import ModelError
from lipmodel.network.reader.handlers import HANDLERS
from lipmodel.network.reader.read import read_onnx
from lipmodel.norms import Norm

SLOW_SECONDS = 10.0
FINE = {"refused", "refused when run", "certified"}


def seeds() -> list[bytes]:
    """Small files with every accepted operator in them."""
    from tests.certify.test_graph import READ
    from tests.certify.test_head import HEADS

    return [*READ.values(), *(content for content, _ in HEADS.values())]


def flip_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, cut out or doubled."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        position = int(rng.integers(len(changed)))
        match int(rng.integers(4)):
            case 0:
                del changed[position : position + int(rng.integers(1, 9))]
            case 1:
                changed[position:position] = changed[position : position + int(rng.integers(1, 9))]
            case _:
                changed[position] = int(rng.integers(256))
        if not changed:
            return b""
    return bytes(changed)


def change_structure(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes that leave a well-formed protobuf."""
    model = onnx.load_model_from_string(content)
    graph = model.graph
    for _ in range(int(rng.integers(1, 4))):
        node = graph.node[int(rng.integers(len(graph.node)))]
        match int(rng.integers(9)):
            case 0:
                node.op_type = str(rng.choice(sorted(HANDLERS)))
            case 1 if node.attribute:
                attribute = node.attribute[int(rng.integers(len(node.attribute)))]
                attribute.i = int(rng.choice([-(2**62), -2, -1, 0, 1, 2, 3, 7, 2**31, 2**62]))
                attribute.ints[:] = rng.choice([-1, 0, 1, 2, 9, 2**40], size=int(rng.integers(0, 5))).tolist()
            case 2 if node.input:
                names = (
                    [i.name for i in graph.initializer]
                    + [o for n in graph.node for o in n.output]
                    + ["x", ""]
                )
                node.input[int(rng.integers(len(node.input)))] = str(rng.choice(names))
            case 3 if graph.initializer:
                tensor = graph.initializer[int(rng.integers(len(graph.initializer)))]
                if tensor.dims:
                    tensor.dims[int(rng.integers(len(tensor.dims)))] = int(
                        rng.choice([-1, 0, 1, 2, 3, 6, 2**40])
                    )
            case 4 if graph.initializer:
                tensor = graph.initializer[int(rng.integers(len(graph.initializer)))]
                tensor.data_type = int(rng.integers(0, 24))
            case 5:
                dims = graph.input[0].type.tensor_type.shape.dim
                dims[int(rng.integers(len(dims)))].dim_value = int(rng.choice([-1, 0, 1, 2, 4, 6, 2**40]))
            case 6:
                graph.output[0].name = str(rng.choice([o for n in graph.node for o in n.output]))
            case 7:
                model.opset_import[0].version = int(rng.integers(5, 30))
            case 8:
                other = graph.node[int(rng.integers(len(graph.node)))]
                copy = onnx.NodeProto()
                copy.CopyFrom(node)
                node.CopyFrom(other)
                other.CopyFrom(copy)
    return bytes(model.SerializeToString())


def trial(content: bytes) -> str:
    """What became of one file."""
    try:
        read_onnx(content)
    except ModelError:
        return "refused"
    try:
        predictor = CertifiedPredictor(content)
    except ModelError as error:
        return "misread" if "something other" in str(error) else "refused when run"
    x = np.random.default_rng(0).normal(size=(3, predictor.file.graph.input_size))
    for norm in Norm:
        radii = predictor.predict(x, norm).radii.certified_radius
        if not (np.isfinite(radii).all() and (radii >= 0).all()):
            return "radius not a number"
    return "certified"


def main() -> None:
    """Runs until the time is up; exits 1 if anything but reading and refusing happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options: Any = parser.parse_args()
    rng, files, outcomes = np.random.default_rng(options.seed), seeds(), Counter[str]()
    end = time.monotonic() + options.seconds
    pool = ProcessPoolExecutor(1)  # a crash of the runtime's own code takes the process with it
    while time.monotonic() < end:
        content = files[int(rng.integers(len(files)))]
        content = (flip_bytes if rng.integers(2) else change_structure)(content, rng)
        started = time.monotonic()
        try:
            outcome = pool.submit(trial, content).result()
        except BrokenProcessPool:
            outcome, pool = "died", ProcessPoolExecutor(1)
        except Exception as error:
            outcome = f"crash: {type(error).__name__}: {error}"[:200]
        if time.monotonic() - started > SLOW_SECONDS:
            outcome = "slow"
        if outcome not in FINE:
            path = Path(tempfile.gettempdir()) / f"fuzz-{outcomes.total()}.onnx"
            path.write_bytes(content)
            print(f"{outcome}; the file is {path}", flush=True)
        outcomes[outcome.split(":")[0]] += 1
    pool.shutdown()
    print(dict(outcomes))
    raise SystemExit(not set(outcomes) <= FINE)


if __name__ == "__main__":
    main()
