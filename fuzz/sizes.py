"""Fuzz the reader with sizes: small files that ask for much memory or time are refused early.

    python -m fuzz.sizes --seconds 60 [--seed 0] [--keep FOLDER]

Each file is read and run (``CertifiedPredictor``) in a new process with 1 GiB of writable memory and 10 s of
processor time. It must be certified or refused with a reason; a signal, another exception, or a limit reached
without a refusal is a failure, whose file is kept in the folder of ``--keep``.
"""

from __future__ import annotations

import itertools
import os
import resource
import select
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fuzz.loop import Random, fuzz
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import ModelError

BYTES, SECONDS = 2**30, 10
PATIENCE_SECONDS = 60.0
"""Limit of elapsed time, for a process that sleeps; the processor may be shared."""
FINE = {"certified", "refused"}

Family = Callable[[Random], bytes]
FAMILIES: list[Family] = []


def family(make: Family) -> Family:
    """Register files of one kind, of random sizes."""
    FAMILIES.append(make)
    return make


def upto(rng: Random, bits: float) -> int:
    """Return a number whose logarithm is uniform: 1 to 2^bits."""
    return int(2 ** rng.uniform(0, bits))


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    """Return an ONNX node."""
    return helper.make_node(op, inputs, outputs, **attributes)


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any] | None = None,
    shape: tuple[Any, ...] = ("N", 4),
    outputs: tuple[str, ...] = ("y",),
    opset: int = 18,
) -> bytes:
    """Return an ONNX file of input x."""
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))
    graph = helper.make_graph(nodes, "g", [given], [onnx.ValueInfoProto(name=o) for o in outputs], tensors)
    for output in graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    opsets = [helper.make_opsetid("", opset)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def chain(op: str, first: str, count: int, **attributes: Any) -> list[onnx.NodeProto]:
    """Return nodes that each take the preceding output twice; the last output is t{count}."""
    names = [first, *(f"t{i}" for i in range(1, count + 1))]
    return [node(op, [a, a], [b], **attributes) for a, b in itertools.pairwise(names)]


@family
def doubling(rng: Random) -> bytes:
    """Multiply, add or join a shape, a constant or the network's tensor with itself, repeatedly."""
    numeric = ["Mul", "Add", "Max", "Concat"]
    ops = {"s": numeric, "c": [*numeric, "MatMul", "Gemm"], "x": ["Concat"]}
    first = str(rng.choice(list(ops)))
    op, count = str(rng.choice(ops[first])), int(rng.integers(1, 60 if first == "s" else 40))
    axis = {"s": 0, "c": int(rng.integers(2)), "x": 1}[first]
    steps, last = chain(op, first, count, **({"axis": axis} if op == "Concat" else {})), f"t{count}"
    if first == "s":
        return model([node("Shape", ["x"], ["s"]), *steps, node("Reshape", ["x", last], ["y"])])
    if first == "x":
        end = node("ReduceMax", [last, "a"], ["y"])
        return model([*steps, end], {"a": np.array([1])}, ("N", upto(rng, 12)))
    start = rng.choice([np.float32(1), np.float32(0.5), 3]) * np.ones((upto(rng, 10),) * 2)
    start = start.astype(rng.choice([np.float32, np.float64, np.int64]))
    return model([*steps, node("Add", ["x", last], ["y"])], {"c": start})


@family
def expanded(rng: Random) -> bytes:
    """Expand a number to a tensor; use it as weights, bias or factor, or move its axes."""
    shape = [upto(rng, 18) for _ in range(rng.integers(1, 4))]
    after = str(rng.choice(["Gemm", "MatMul", "Add", "Mul", "Transpose", "ReduceL2", "Pow", "Gather"]))
    inputs = ["x", "e"] if after in ("Gemm", "MatMul", "Add", "Mul") else ["e", "i"]
    inputs = inputs[:1] if after in ("Transpose",) else inputs
    nodes = [node("Expand", ["c", "s"], ["e"]), node(after, inputs, ["z"])]
    return model(
        [*nodes, node("Add", ["x", "z"], ["y"]) if inputs[0] == "e" else node("Identity", ["z"], ["y"])],
        {"c": np.float32(1e-3), "s": np.array(shape), "i": np.zeros((), np.int64)},
        ("N", upto(rng, 18)),
    )


@family
def products_of_expanded(rng: Random) -> bytes:
    """Compute many products of large constants that are expanded from small ones."""
    m, k, n = (upto(rng, 14) for _ in range(3))
    count = upto(rng, 8)
    nodes = [node("Expand", ["c", "s"], ["a"]), node("Expand", ["c", "t"], ["b"])]
    nodes += [node("MatMul", ["a", "b"], [f"p{i}"]) for i in range(count)]
    nodes += [node("ReduceMean", [f"p{i}"], [f"m{i}"], keepdims=0) for i in range(count)]
    nodes += [node("Add", ["x" if i == 0 else f"y{i - 1}", f"m{i}"], [f"y{i}"]) for i in range(count)]
    constants = {"c": np.float32(1e-9), "s": np.array([m, k]), "t": np.array([k, n])}
    return model(nodes, constants, outputs=(f"y{count - 1}",))


@family
def shared_weights(rng: Random) -> bytes:
    """Read one constant in many layers."""
    size, count = upto(rng, 13), upto(rng, 13)
    layers = [node("MatMul", [f"h{i}", "w"], [f"h{i + 1}"]) for i in range(count)]
    nodes = [node("Expand", ["c", "s"], ["w"]), node("Identity", ["x"], ["h0"]), *layers]
    return model(nodes, {"c": np.float32(0.1), "s": np.array([size, size])}, ("N", size), (f"h{count}",))


@family
def integers(rng: Random) -> bytes:
    """Compute with extreme integers."""
    ends = np.array([-(2**63), -(2**63) + 1, -(2**31), -1, 0, 1, 2**31, 2**62, 2**63 - 1])
    ops = [str(op) for op in rng.choice(["Div", "Mul", "Add", "Sub", "Neg", "Abs", "Max", "Min"], size=3)]
    nodes = []
    for i, op in enumerate(ops):
        more = [] if op in ("Neg", "Abs") else [str(rng.choice(["a", "b", "t0"]))]
        nodes.append(node(op, [f"t{i}", *more], [f"t{i + 1}"]))
    kind = rng.choice([np.int64, np.int32])
    values = {name: rng.choice(ends, size=4).astype(kind) for name in ("t0", "a", "b")}
    return model([*nodes, node("Cast", ["t3"], ["v"], to=1), node("Add", ["x", "v"], ["y"])], values)


@family
def many_outputs(rng: Random) -> bytes:
    """Chain layers, each of which is an output."""
    count = upto(rng, 12)
    nodes = [node("Relu", ["x" if i == 0 else f"y{i - 1}"], [f"y{i}"]) for i in range(count)]
    ends = [node("Softmax", [f"y{i}"], [f"p{i}"]) for i in range(count)] if rng.integers(2) else []
    names = [f"p{i}" if ends else f"y{i}" for i in range(count)]
    return model([*nodes, *ends], outputs=tuple(names))


@family
def many_nodes(rng: Random) -> bytes:
    """Chain one operator on the network's tensor, or on a constant."""
    folded = bool(rng.integers(2))
    kinds = "Relu Add Neg Sub Max Concat Split Transpose", "Sqrt Neg ReduceSum Transpose Cast Identity"
    op, count = str(rng.choice(kinds[folded].split())), upto(rng, 14)
    attributes = {"Concat": {"axis": 1}, "Split": {"axis": 1, "num_outputs": 1}, "Cast": {"to": 1},
                  "Transpose": {"perm": [0, 1]}, "ReduceSum": {"keepdims": 1}}.get(op, {})  # fmt: skip
    twice = op in ("Add", "Sub", "Max", "Concat")
    nodes = [node(op, [f"h{i}"] * (1 + twice), [f"h{i + 1}"], **attributes) for i in range(count)]
    if not folded:
        return model([node("Identity", ["x"], ["h0"]), *nodes], outputs=(f"h{count}",))
    start = np.ones((upto(rng, 10), upto(rng, 10)), np.float32)
    return model([*nodes, node("Add", ["x", f"h{count}"], ["y"])], {"h0": start})


@family
def wide_inputs(rng: Random) -> bytes:
    """Read inputs of up to 2^26 numbers, reduced to few scores or not at all."""
    size, batch = upto(rng, 26), rng.choice(["N", str(upto(rng, 34))])
    fixed = int(batch) if batch != "N" else "N"
    if rng.integers(2):
        return model([node("Relu", ["x"], ["y"])], shape=(fixed, size))
    k = upto(rng, 26)
    return model([node("TopK", ["x", "k"], ["y", "i"])], {"k": np.array([k])}, (fixed, size))


@family
def many_axes(rng: Random) -> bytes:
    """Give tensors, targets and lists many axes."""
    count = upto(rng, 17)
    match int(rng.integers(5)):
        case 0:
            return model([node("Flatten", ["x"], ["y"])], shape=("N", *[1] * count))
        case 1:
            axes = np.arange(1, count + 1)
            return model([node("Unsqueeze", ["x", "a"], ["u"]), node("Flatten", ["u"], ["y"])], {"a": axes})
        case 2:
            target = np.full(count, rng.choice([1, 2**62, 0, -1]))
            return model([node("Reshape", ["x", "s"], ["y"])], {"s": target})
        case 3:
            shifted = model([node("Add", ["x", "c"], ["y"])], {"c": np.ones(4, np.float32)})
            content = onnx.load_model_from_string(shifted)
            content.graph.initializer[0].dims[:] = [int(rng.choice([1, 2**62, 2**20, 0]))] * count
            return bytes(content.SerializeToString())
        case _:
            ends = {"s": np.zeros(count, np.int64), "e": np.full(count, 4), "a": np.ones(count, np.int64)}
            return model([node("Slice", ["x", "s", "e", "a"], ["y"])], ends)


@family
def windows(rng: Random) -> bytes:
    """Convolve and pool, repeatedly, with large kernels, pads, strides and dilations."""
    axes = int(rng.integers(1, 4))
    channels, spatial = upto(rng, 8), [upto(rng, 22 / axes) for _ in range(axes)]
    size = [upto(rng, 16 / axes) for _ in range(axes)]
    attributes: dict[str, Any] = {
        "strides": [upto(rng, 17) for _ in range(axes)],
        "dilations": [upto(rng, 17) for _ in range(axes)],
        "pads": [upto(rng, 17) - 1 for _ in range(2 * axes)],
    }
    attributes = {key: value for key, value in attributes.items() if rng.integers(2)}
    op = str(rng.choice(["Conv", "MaxPool", "AveragePool", "GlobalAveragePool"]))
    shape = ("N", channels, *spatial)
    if op == "Conv":
        small = channels * np.prod(size) < 2**22
        kernel = np.ones((upto(rng, 4), channels, *size), np.float32) if small else 0.0
        nodes = [node("Conv", ["x", "k"], ["z"], **attributes)]
        return model([*nodes, node("Flatten", ["z"], ["y"])], {"k": kernel}, shape)
    if op == "GlobalAveragePool":
        return model([node(op, ["x"], ["z"]), node("Flatten", ["z"], ["y"])], shape=shape)
    attributes |= {"kernel_shape": size}
    copies = upto(rng, 10)
    nodes = [node(op, ["x"], [f"z{i}"], **attributes) for i in range(copies)]
    nodes += [node("Max", [f"z{i}" for i in range(copies)], ["z"]), node("Flatten", ["z"], ["f"])]
    return model([*nodes, node("TopK", ["f", "k"], ["y", "i"])], {"k": np.array([3])}, shape)


@family
def selections(rng: Random) -> bytes:
    """Gather, slice and split long axes, many times."""
    size, count = upto(rng, 23), upto(rng, 12)
    parts, constants = [f"p{i}" for i in range(count)], {}
    match int(rng.integers(3)):
        case 0:
            nodes = [node("Slice", ["x", "0", "e", "1"], [part]) for part in parts]
            constants = {"0": np.array([0]), "1": np.array([1]), "e": np.array([2**62])}
        case 1:
            nodes = [node("Split", ["x"], parts, axis=1, num_outputs=count)]
        case _:
            nodes = [node("Gather", ["x", "i"], [part], axis=1) for part in parts]
            constants = {"i": np.arange(min(size, 2**20))[:: -1 if rng.integers(2) else 1]}
    return model([*nodes, node("Max", parts, ["y"])], constants, ("N", size))


@family
def many_classes(rng: Random) -> bytes:
    """Give the network thousands of scores, or a class thousands of prototypes."""
    size, classes = upto(rng, 5), upto(rng, 17)
    weight = np.ones((classes, size), np.float32)
    nodes = [node("Gemm", ["x", "w"], ["z"], transB=1)]
    if rng.integers(2):
        nodes += [node("Reshape", ["z", "s"], ["r"]), node("ReduceMax", ["r", "a"], ["y"], keepdims=0)]
    else:
        nodes += [node("Identity", ["z"], ["y"])]
    constants = {"w": weight, "s": np.array([-1, 2, max(classes // 2, 1)]), "a": np.array([2])}
    return model(nodes, constants, ("N", size))


@family
def long_texts(rng: Random) -> bytes:
    """Write long names, long metadata or many entries."""
    content = onnx.load_model_from_string(model([node("Relu", ["x"], ["y"])]))
    long, count = "a" * upto(rng, 22), upto(rng, 16)
    match int(rng.integers(6)):
        case 0:
            content.graph.node[0].name = long
        case 1:
            content.graph.node[0].output[0] = content.graph.output[0].name = long
        case 2:
            content.graph.node[0].op_type = long
        case 3:
            content.metadata_props.add(key=f"lipcert.{long}", value=long)
        case 4:
            for i in range(count):
                content.metadata_props.add(key=f"lipcert.{i}", value="[" * 100)
        case _:
            for i in range(count):
                content.graph.initializer.add(name=f"i{i}", data_type=1, dims=[1], float_data=[1.0])
    return bytes(content.SerializeToString())


def varint(number: int) -> bytes:
    """Return a length as a varint of protobuf."""
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


@family
def nested(rng: Random) -> bytes:
    """Nest graphs in attributes of graphs, and lists of graphs."""
    graph = helper.make_graph([], "g", [], [])
    if rng.integers(2):  # by hand, as protobuf writes no more than 100 levels
        content = b""
        for level in range(upto(rng, 14)):
            tag = b"\x0a\x2a\x32"[level % 3 : level % 3 + 1]  # a graph's node, its attribute, the graph in it
            content = tag + varint(len(content)) + content
        return model([node("Relu", ["x"], ["y"])]) + b"\x3a" + varint(len(content)) + content
    for depth in range(upto(rng, 4.9)):
        graph = helper.make_graph([node("If", ["c"], ["d"], then_branch=graph)], f"g{depth}", [], [])
    wide = [graph] * upto(rng, 8)
    inner = node("Loop", ["x"], ["y"], body=graph, more=wide)
    return model([inner])


@family
def repeated_fields(rng: Random) -> bytes:
    """Write millions of empty messages or numbers in few bytes."""
    content = model([node("Relu", ["x"], ["y"])])
    field = int(rng.choice([14, 8, 25, 20]))  # metadata, opsets, functions, training
    tag = [field << 3 & 0x7F | 2, 1 if field > 15 else 0, *([0] if field > 15 else [])]
    return content + bytes(tag) * upto(rng, 22)


@family
def bounds_of_layers(rng: Random) -> bytes:
    """Write a network with its weights, larger than usual."""
    sizes = [upto(rng, 12) for _ in range(int(rng.integers(2, 8)))]
    constants, nodes, last = {}, [], "x"
    for i, shape in enumerate(itertools.pairwise(sizes)):
        constants[f"w{i}"] = np.ones(shape, np.float32) / 64
        nodes.append(node("MatMul", [last, f"w{i}"], [last := f"h{i}"]))
    return model(nodes, constants, ("N", sizes[0]), (last,))


def outcome(content: bytes) -> str:
    """Return the outcome of reading a file in a new process."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        try:
            CertifiedPredictor(content)
            result = "certified"
        except ModelError as error:
            result = "refused" if len(str(error)) < 2_000 else "refused at length"
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"[:300]
        os.write(write_end, result.encode())
        os._exit(0)
    os.close(write_end)
    ready, _, _ = select.select([read_end], [], [], PATIENCE_SECONDS)
    result = os.read(read_end, 1000).decode() if ready else "too slow"
    os.close(read_end)
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return result or f"signal {os.WTERMSIG(status)}"


def make(rng: Random) -> tuple[bytes, set[str]]:
    """Return a file of a random family, and the family's name."""
    chosen = FAMILIES[int(rng.integers(len(FAMILIES)))]
    return chosen(rng), {chosen.__name__}


if __name__ == "__main__":
    fuzz(__doc__, make, outcome, FINE)
