"""Fuzz the reader of ONNX files: for any bytes, a model is read or refused, without a crash or a hang.

    python -m fuzz.reader --seconds 60 [--seed 0] [--keep FOLDER]

Half of the trials flip bytes of a file, half change its structure (operators, attributes, shapes, wiring,
types). A model that was read is also run: the predictor refuses a file if onnxruntime computes something
other than the model read, so a misreading has the outcome "misread".
"""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import onnx

from fuzz.loop import Isolated, Random, fuzz
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import ModelError
from lipmodel.network.reader.handlers import HANDLERS
from lipmodel.network.reader.read import read_onnx
from lipmodel.norms import Norm

SLOW_SECONDS = 10.0
FINE = {"refused", "refused when run", "certified"}


@cache
def seeds() -> list[bytes]:
    """Return small files that together have every accepted operator."""
    from tests.certify.test_graph import READ
    from tests.certify.test_head import HEADS

    return [*READ.values(), *(content for content, _ in HEADS.values())]


def flip_bytes(content: bytes, rng: Random) -> bytes:
    """Change, cut out or double a few bytes."""
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


def change_structure(content: bytes, rng: Random) -> bytes:
    """Make one to three changes that leave a well-formed protobuf."""
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
                names = [i.name for i in graph.initializer] + ["x", ""]
                names += [o for n in graph.node for o in n.output]
                node.input[int(rng.integers(len(node.input)))] = str(rng.choice(names))
            case 3 if graph.initializer:
                dims = graph.initializer[int(rng.integers(len(graph.initializer)))].dims
                if dims:
                    dims[int(rng.integers(len(dims)))] = int(rng.choice([-1, 0, 1, 2, 3, 6, 2**40]))
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


def make(rng: Random) -> tuple[bytes, set[str]]:
    """Return a changed file and the kind of change."""
    content = seeds()[int(rng.integers(len(seeds())))]
    change = flip_bytes if rng.integers(2) else change_structure
    return change(content, rng), {change.__name__}


def trial(content: bytes) -> str:
    """Return the outcome of one file; "slow" where it takes more than ``SLOW_SECONDS``."""
    started = time.monotonic()
    outcome = read_and_predict(content)
    return "slow" if time.monotonic() - started > SLOW_SECONDS else outcome


def read_and_predict(content: bytes) -> str:
    """Return the outcome of reading and running one file."""
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


if __name__ == "__main__":
    fuzz(__doc__, make, Isolated(trial), FINE)
