"""Fuzz the folding of constants against onnxruntime and the reference evaluator of ONNX.

    python -m fuzz.folding --seconds 60 [--seed 0] [--keep FOLDER]

Each file adds to its input a tensor V that random operators compute from random constants of every type. A V
read as portable must be the same, bit for bit, in onnxruntime and in the reference; the digest of a V read as
computed in floating point must be that of the V that onnxruntime computes when it runs the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fuzz.loop import Isolated, Random, fuzz
from lipmodel.errors import ModelError
from lipmodel.network import ops
from lipmodel.network.reader.constants import FOLDS
from lipmodel.network.reader.read import read_onnx, without_dead
from lipmodel.network.session import open_session
from lipmodel.verify.proof import digest_folded

FINE = {
    "refused",
    "refused when run",
    "portable, as in both",
    "portable, as in onnxruntime alone",
    "computed, of that digest",
}
OTHER = [
    "Mod", "Round", "Floor", "Sign", "CastLike", "Where", "Range", "Tile", "ConstantOfShape",
    "BitShift", "Not",
]  # fmt: skip
TYPES = [np.float32, np.float64, np.int64, np.int32, np.bool_]
EXTREMES: dict[str, list[Any]] = {
    "f": [0.0, -0.0, 1.0, 0.1, -2.5, 1e-40, 1e-310, 2.0**24 + 1, 2.0**31, 2.0**63, 3e38, 1e300, 1 / 3],
    "i": [0, 1, -1, 2, 3, -7, 4, 2**24 + 1, 2**31 - 1, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63)],
    "b": [True, False],
}


def constant(rng: Random, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return a small tensor of ordinary numbers or of extreme ones."""
    shape = tuple(int(d) for d in rng.integers(1, 4, size=rng.integers(0, 4)))
    if rng.integers(3):
        with np.errstate(all="ignore"):
            return np.asarray(rng.normal(size=shape) * rng.choice([1, 4, 100])).astype(dtype)
    values = EXTREMES[dtype.kind]
    if dtype.kind == "i":
        values = [v for v in values if np.iinfo(dtype).min <= v <= np.iinfo(dtype).max]
    with np.errstate(all="ignore"):
        array = np.array(values, dtype=dtype)
    return np.asarray(rng.choice(array[np.isfinite(array)], size=shape))


def attributes(op: str, rng: Random) -> dict[str, Any]:
    """Return attributes of an operator, mostly sound ones."""
    axis, axes = int(rng.integers(-1, 2)), rng.integers(-1, 2, size=rng.choice([1, 1, 2])).tolist()
    given: dict[str, dict[str, Any]] = {
        "Cast": {"to": int(rng.choice([1, 11, 7, 6, 9, 1, 11, 7, *range(1, 22)]))},
        "Concat": {"axis": axis},
        "Gather": {"axis": axis},
        "Flatten": {"axis": axis},
        "Split": {"axis": axis, "num_outputs": int(rng.integers(1, 4))},
        "Transpose": {"perm": rng.permutation(rng.integers(1, 4)).tolist()},
        "Gemm": {"transA": int(rng.integers(2)), "transB": int(rng.integers(2)), "alpha": 0.5},
        "Shape": {"start": axis, "end": int(rng.integers(-2, 4))},
        "Reshape": {"allowzero": int(rng.integers(2))},
        "Squeeze": {"axes": axes},
        "Unsqueeze": {"axes": axes},
        "Slice": {"starts": axes, "ends": [int(v) + 2 for v in axes], "axes": list(range(len(axes)))},
        "ReduceSum": {"keepdims": int(rng.integers(2))},
    }
    chosen = given.get(op, {})
    return {name: value for name, value in chosen.items() if name in ("to", "axis") or rng.integers(4) == 0}


UNARY = {
    "Identity", "Shape", "Transpose", "Flatten", "Cast", "Neg", "Abs", "Sqrt", "Relu", "Reciprocal", "Round",
    "Floor", "Sign", "Not",
}  # fmt: skip
BY_INTEGERS = {
    "Reshape", "Expand", "Gather", "Squeeze", "Unsqueeze", "Slice", "Split", "Tile",
    "ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare",
}  # fmt: skip


def make(rng: Random) -> bytes:
    """Return a file that shifts its input by a tensor computed from constants."""
    dtype = np.dtype(TYPES[rng.integers(len(TYPES))])
    constants = {f"c{i}": constant(rng, dtype) for i in range(rng.integers(1, 4))}
    integers = {f"i{i}": rng.integers(-1, 3, size=rng.choice([1, 1, 2, 3])) for i in range(4)}
    names, nodes, last = list(constants), [], "c0"
    for index in range(int(rng.integers(1, 5))):
        op = str(rng.choice([*FOLDS, "Cast", "Cast", *(OTHER if rng.integers(10) == 0 else ())]))
        parts = int(rng.integers(1, 4)) if op == "Split" else 1
        more = 0 if op in UNARY else int(rng.integers(2, 5)) if op == "Slice" else 1
        others = list(integers) if op in BY_INTEGERS else names
        given = [last, *(str(rng.choice(others)) for _ in range(more))]
        given = given[:1] if op in BY_INTEGERS and rng.integers(3) == 0 else given
        outputs = [f"t{index}_{part}" for part in range(parts)]
        nodes.append(helper.make_node(op, given, outputs, **attributes(op, rng)))
        names += outputs
        last = str(rng.choice(outputs))
    constants |= integers
    names.append(last)
    nodes += [
        helper.make_node("Cast", [names[-1]], ["last"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["last", "flat"], ["V"]),
        helper.make_node("Add", ["x", "V"], ["y"]),
    ]
    constants["flat"] = np.array([-1])
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    opsets = [helper.make_opsetid("", int(rng.choice([7, 11, 13, 18, 21])))]
    size = 4
    for _ in range(2):  # first to learn the size of V
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", size])
        y = onnx.ValueInfoProto(name="y")
        graph = helper.make_graph(nodes, "g", [x], [y], tensors)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        try:
            with np.errstate(all="ignore"):
                size = int(reference(model).size)
        except Exception:  # the reader is tried all the same
            break
    return bytes(model.SerializeToString())


def reference(model: onnx.ModelProto) -> np.ndarray[Any, Any]:
    """Return V as the reference evaluator computes it."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    copy.graph.output.extend([onnx.ValueInfoProto(name="V")])
    zeros = np.zeros((1, copy.graph.input[0].type.tensor_type.shape.dim[1].dim_value), np.float32)
    return np.asarray(ReferenceEvaluator(copy).run(["V"], {"x": zeros})[0])


def trial(content: bytes) -> str:
    """Return the outcome of reading and running one file."""
    try:
        file = read_onnx(content)
    except ModelError:
        return "refused"
    content = without_dead(content, file.output)
    if not file.portable:
        try:
            digest = digest_folded(file)
        except Exception:  # so does the self-check
            return "refused when run"
        return "computed, of that digest" if digest == file.folded_sha256 else "computed, of another digest"
    (shift,) = file.graph.ops
    assert isinstance(shift, ops.Shift)
    ours = shift.offset.astype(np.float32)
    model = onnx.load_model_from_string(content)
    model.graph.output.extend([onnx.ValueInfoProto(name="V")])
    zeros = np.zeros((1, file.graph.input_size), np.float32)
    try:
        session: Any = open_session(model.SerializeToString())
        theirs = session.run(["V"], {"x": zeros})[0]
    except Exception:  # so does the self-check
        return "refused when run"
    if theirs.tobytes() != ours.tobytes():
        return "portable, but onnxruntime differs"
    try:
        theirs = reference(onnx.load_model_from_string(content))
    except Exception:  # it has no such operator in that opset, or its own faults
        return "portable, as in onnxruntime alone"
    same = theirs.astype(np.float32).tobytes() == ours.tobytes()
    return "portable, as in both" if same else "portable, but the reference differs"


def with_operators(rng: Random) -> tuple[bytes, set[str]]:
    """Return a random file and its operators."""
    content = make(rng)
    return content, {node.op_type for node in onnx.load_model_from_string(content).graph.node}


if __name__ == "__main__":
    fuzz(__doc__, with_operators, Isolated(trial), FINE)
