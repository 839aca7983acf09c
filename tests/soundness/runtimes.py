"""Float32 programs that conform to the certificate's assumptions and differ in everything else.

onnxruntime at several optimisation levels, torch, numpy in several orders of summation, and
onnxruntime with subnormal numbers flushed to zero. Each takes (N, d) inputs and gives labels.
"""

from __future__ import annotations

import contextlib

import numpy as np
import onnxruntime as ort
import torch

from lipmodel.network import ops
from tests.soundness.integers import counts, unrolled

LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def label_of(scores):
    """The class of the largest score; of one score, its sign."""
    return (scores[:, 0] > 0).astype(int) if scores.shape[1] == 1 else scores.argmax(axis=1)


@contextlib.contextmanager
def flushing():
    """Subnormal numbers are taken for zero, and given as zero, by this thread."""
    assert torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def onnxruntime(content, graph, level="off", threads=1):
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(x):
        x = np.ascontiguousarray(x, dtype=np.float32).reshape(-1, *graph.input_shape)
        return label_of(session.run(None, {graph.input: x})[0])

    return run


def flushed(program):
    def run(x):
        with flushing():
            return program(x)

    return run


def batches(program, size):
    return lambda x: np.concatenate([program(x[i : i + size]) for i in range(0, len(x), size)])


def numpy_matmul(matrix, bias, x):
    return x @ matrix.T + bias


def numpy_backwards(matrix, bias, x):
    """Bias first, then the terms one by one from the last."""
    total = np.broadcast_to(bias, (len(x), len(matrix))).astype(x.dtype)
    for k in reversed(range(matrix.shape[1])):
        total = total + x[:, k : k + 1] * matrix[:, k]
    return total


def numpy_halves(matrix, bias, x):
    """The sums of both halves apart."""
    half = matrix.shape[1] // 2
    return x[:, :half] @ matrix[:, :half].T + (x[:, half:] @ matrix[:, half:].T + bias)


def torch_linear(matrix, bias, x):
    tensors = [torch.from_numpy(np.array(a)) for a in (x, matrix, bias)]
    return torch.nn.functional.linear(*tensors).numpy()


def program(graph, linear, dtype=np.float32, answer=label_of):
    """A numpy interpreter of the graph with that way to multiply."""

    def run(x):
        values = {graph.input: np.asarray(x, dtype=dtype).reshape(-1, *graph.input_shape)}
        with np.errstate(all="ignore"):
            for op, operator in steps:
                values[op.output] = operator([values[name] for name in op.inputs]).reshape(-1, *op.shape)
        return answer(values[graph.output])

    steps = [(op, _operator(op, linear, dtype)) for op in graph.ops]
    return run


def _operator(op, linear, dtype):
    def constant(values):
        return np.asarray(values, dtype=dtype)

    match op:
        case ops.Dense():
            weight, bias = (
                constant(op.weight),
                constant(np.zeros(len(op.weight)) if op.bias is None else op.bias),
            )
            return lambda v: linear(weight, bias, v[0].reshape(-1, weight.shape[1]))
        case ops.Conv():
            matrix = constant(unrolled(op))
            bias = constant(np.repeat(op.bias, len(matrix) // len(op.kernel)))
            return lambda v: linear(matrix, bias, v[0].reshape(len(v[0]), -1))
        case ops.AveragePool():
            matrix, zeros = constant(unrolled(op)), constant(np.zeros(op.size))
            count = constant(counts(op, unrolled(op)))
            return lambda v: linear(matrix, zeros, v[0].reshape(len(v[0]), -1)) / count
        case ops.Clip():
            low = constant(-np.inf if op.low is None else op.low)
            high = constant(np.inf if op.high is None else op.high)
            return lambda v: np.minimum(np.maximum(v[0], low), high)
        case ops.Abs():
            return lambda v: np.abs(v[0])
        case ops.SortingNetwork():
            return lambda v: _sorted(op, v[0])
        case ops.ReduceExtremum():
            axes = tuple(a + 1 for a in op.axes)
            return lambda v: v[0].max(axis=axes) if op.kind == "max" else v[0].min(axis=axes)
        case ops.Sum():
            return lambda v: v[0] + v[1]
        case ops.Reshape():
            return lambda v: v[0]
    raise ops.missing_rule(op, "tests/soundness/runtimes.py")


def _sorted(op, x):
    wires = [np.take(x, wire, axis=op.axis + 1) for wire in op.wires]
    for i, j in op.comparators:
        wires[i], wires[j] = np.maximum(wires[i], wires[j]), np.minimum(wires[i], wires[j])
    return np.concatenate([wires[i] for i in op.joined], axis=op.axis + 1)


def programs(graph, content):
    """The float32 programs by name; each must give the certified label at every point of a portable ball."""
    plain = onnxruntime(content, graph)
    return {
        "onnxruntime": plain,
        "onnxruntime, all optimisations": onnxruntime(content, graph, "all"),
        "onnxruntime, flushing": flushed(plain),
        "numpy, backwards": program(graph, numpy_backwards),
        "numpy, in halves": program(graph, numpy_halves),
        "torch": program(graph, torch_linear),
    }


def float64_programs(graph):
    """Float64 programs that must give the certified label at every point of a served ball."""
    return {
        "numpy": program(graph, numpy_matmul, np.float64),
        "numpy, backwards": program(graph, numpy_backwards, np.float64),
        "torch": program(graph, torch_linear, np.float64),
    }
