"""What asks for much in few bytes is refused before it takes it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import MAX_REASON, FileFormatError, ModelError, UnsupportedError
from lipmodel.network.reader import external_data as external
from lipmodel.network.reader import read as graph_module
from lipmodel.network.reader.read import read_onnx
from tests.certify.test_graph import ints, model, n
from tests.networks import groupsort_net, to_file

ONE = np.float32(1)


def chain(op, first, count, **attributes):
    """Nodes that each take the tensor before twice; the last makes y."""
    names = [first, *(f"t{i}" for i in range(1, count)), "y"]
    return [n(op, [a, a], b, **attributes) for a, b in itertools.pairwise(names)]


def layers(size, count):
    """One constant, made of one number, as the weights of many layers."""
    names = ["x", *(f"h{i}" for i in range(1, count)), "y"]
    steps = [n("MatMul", [a, "w"], b) for a, b in itertools.pairwise(names)]
    return model([n("Expand", ["c", "s"], "w"), *steps], {"c": ONE, "s": ints(size, size)}, shape=("N", size))


def changed(change):
    proto = onnx.load_model_from_string(model([n("Relu", "x")]))
    change(proto)
    return proto.SerializeToString()


def added(*nodes, **constants):
    return model([*nodes, n("Add", ["x", "V"])], constants)


REFUSED = {
    "a shape multiplied by itself": (
        model([n("Shape", "x", "s"), *chain("Mul", "s", 34)[:-1], n("Reshape", ["x", "t33"])]), "leaves the range",
    ),
    "a shape joined with itself": (
        model([n("Shape", "x", "s"), *chain("Concat", "s", 40, axis=0)[:-1], n("Reshape", ["x", "t39"])]),
        "at most 1024 integers",
    ),
    "a constant joined with itself": (
        added(*chain("Concat", "c", 40, axis=0)[:-1], n("Identity", "t39", "V"), c=np.ones(4, np.float32)),
        "numbers computed while reading the file",
    ),
    "a constant indexed by itself": (
        added(*chain("Gather", "c", 9)[:-1], n("Cast", "t8", "V", to=1), c=np.zeros((9, 9), np.int64)),
        "numbers computed while reading|MemoryError|out of bounds|cannot be computed",
    ),
    "a number expanded": (added(n("Expand", ["c", "s"], "V"), c=ONE, s=ints(2**15, 2**15)), "numbers computed"),
    "a number expanded beyond counting": (
        added(n("Expand", ["c", "s"], "V"), c=ONE, s=ints(2**62, 2**62)), "numbers computed|cannot be computed",
    ),
    "an outer product": (
        added(n("Expand", ["c", "s"], "a"), n("Transpose", "a", "b"), n("MatMul", ["b", "a"], "V"), c=ONE, s=ints(1, 2**20)),
        "numbers computed",
    ),
    "products without end": (
        added(
            n("Expand", ["c", "s"], "a"), *[n("MatMul", ["a", "a"], f"p{i}") for i in range(9)],
            n("Max", [f"p{i}" for i in range(9)], "V"), c=ONE, s=ints(2048, 2048),
        ),
        "multiplications of constants",
    ),
    "weights without end": (layers(64, 2000), "numbers computed"),
    "large weights of one number": (layers(2500, 1), "numbers computed"),
    "a tensor joined with itself": (model(chain("Concat", "x", 40, axis=1)), "numbers per sample"),
    "a tensor of many axes": (
        model([n("Unsqueeze", ["x", "a"], "u"), n("Flatten", "u")], {"a": np.arange(1, 60)}), "axes",
    ),
    "an input of many axes": (model([n("Flatten", "x")], shape=("N", *[1] * 1000)), "at most 32"),
    "a constant of many axes": (
        changed(lambda p: p.graph.initializer.add(name="c", data_type=1, dims=[2**62] * 100_000)), "at most 32",
    ),
    "a target of many axes": (
        model([n("Reshape", ["x", "s"])], {"s": np.full(10_000, 2**62)}), "at most 32",
    ),
    "a fixed batch": (model([n("Relu", "x")], shape=(2**31, 4)), "fixes a batch of 2147483648"),
    "an empty batch": (model([n("Relu", "x")], shape=(0, 4)), "fixes a batch of 0"),
    "an input of 2^26 numbers": (model([n("Relu", "x")], shape=("N", 2**26)), "at most 16777216"),
    "scores by the million": (model([n("Relu", "x")], shape=("N", 2**20)), "at most 4096 classes"),
    "windows without end": (
        model([n("MaxPool", "x", "z", kernel_shape=[4096], strides=[1]), n("Flatten", "z")], shape=("N", 1, 2**16)),
        "windows read",
    ),
    "windows over many channels": (
        model([n("MaxPool", "x", "z", kernel_shape=[512]), n("Flatten", "z")], shape=("N", 64, 2**12)), "windows read",
    ),
    "entries read by many windows": (
        model(
            [n("AveragePool", "x", "z", kernel_shape=[1000], strides=[4000], dilations=[4000]), n("Flatten", "z")],
            shape=("N", 1, 7_000_000),
        ),
        "windows read",
    ),
    "many links": (
        model([n("Max", ["x"] * 250_000)]), "at most 200000",
    ),
    "many initializers": (
        changed(lambda p: [p.graph.initializer.add(name=f"i{i}", data_type=1, dims=[0]) for i in range(200_001)]),
        "at most 200000",
    ),
    "a long name": (changed(lambda p: setattr(p.graph.node[0], "name", "a" * 2**20)), "has 1048576 characters"),
    "a long operator": (changed(lambda p: setattr(p.graph.node[0], "op_type", "a" * 2**20)), "op_type"),
    "a step beyond integers": (
        model([n("Slice", ["x", "s", "e", "a", "t"])], {"s": ints(0), "e": ints(4), "a": ints(1), "t": ints(-(2**63))}),
        "has steps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_asks_for_much_is_refused_at_once(name):
    content, reason = REFUSED[name]
    started = time.process_time()
    with pytest.raises(ModelError, match=reason) as refusal:
        CertifiedPredictor(content)
    assert time.process_time() - started < 5
    assert len(str(refusal.value)) < 2 * MAX_REASON


def test_what_a_file_stores_may_be_read_and_moved_some_times():
    """The limits grow with the file: weights stored are not numbers made."""
    size = 2100
    weight = np.zeros((size, size), np.float32)
    content = model(
        [n("Transpose", "w", "t"), n("MatMul", ["x", "t"], "h"), n("MatMul", ["h", "w"])], {"w": weight}, shape=("N", size)
    )  # fmt: skip
    assert [type(op).__name__ for op in read_onnx(content).graph.ops] == ["Dense", "Dense"]


def test_a_thousand_outputs_are_walked_once():
    """Of 2,000 layers each one an output, one of them of scores alone."""
    names = ["x", *(f"y{i}" for i in range(2000))]
    steps = [n("Add", [a, "c"], b) for a, b in itertools.pairwise(names)]
    ends = [n("Softmax", name, f"p{name}") for name in names[1:]]
    content = model(
        [*steps, *ends, n("Flatten", "y1999", "z")], {"c": np.ones((2, 2), np.float32)}, shape=("N", 2, 2),
        outputs=(*(f"p{name}" for name in names[1:]), "z"),
    )  # fmt: skip
    started = time.process_time()
    assert read_onnx(content).output == "z"
    assert time.process_time() - started < 10


def test_a_class_that_owns_many_scores_is_compared_by_its_own():
    content = model(
        [n("Reshape", ["x", "s"], "r"), n("ReduceMax", ["r", "a"], "y", keepdims=0)],
        {"s": ints(-1, 2, 4096), "a": ints(2)}, shape=("N", 8192),
    )  # fmt: skip
    x = np.zeros((1, 8192))
    x[0, 1] = 2.0
    predictor = CertifiedPredictor(content)
    assert len(predictor.head.owners) == 2
    assert predictor.predict(x).radii.certified_radius == pytest.approx(2.0 / 2**0.5, rel=1e-6)


@pytest.mark.parametrize("error", [MemoryError, RecursionError, OverflowError])
def test_running_out_is_a_refusal(error, monkeypatch):
    def exhausted(*_):
        raise error("no more")

    content = to_file(groupsort_net())
    with monkeypatch.context() as patch:
        patch.setattr(graph_module, "read_tensor", exhausted)
        with pytest.raises(UnsupportedError, match=f"exceeds this process's limits \\({error.__name__}"):
            read_onnx(content)
    monkeypatch.setattr("lipmodel.certify.predictor.bound_rounding", exhausted)
    with pytest.raises(UnsupportedError, match="exceeds this process's limits"):
        CertifiedPredictor(content)


@pytest.mark.parametrize("shared", [True, False])
def test_weights_beside_the_file_are_bounded(shared, tmp_path, monkeypatch):
    """Of one sparse file of 3 GiB, and of one that many initializers claim over and over."""
    proto = onnx.load_model_from_string(to_file(groupsort_net()))
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(2**12 if shared else 3 * 2**30)
    if shared:
        monkeypatch.setattr(external, "MAX_BYTES", 2**20)
    for number in range(300 if shared else 1):
        tensor = proto.graph.initializer.add(name=f"e{number}", data_type=1, dims=[2**10], data_location=1)
        tensor.external_data.add(key="location", value="weights")
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(FileFormatError, match=r"at most (2147483647|1048576) are accepted"):
        read_onnx(tmp_path / "net.onnx")


def test_windows_written_out_count_as_evaluated():
    content = model([n("MaxPool", "x", "z", kernel_shape=[3]), n("Flatten", "z")], shape=("N", 2, 10))
    assert sorted(read_onnx(content).graph.evaluated_sizes) == [16, 16, 20, 2 * 8 * 3]


def test_a_long_chain_of_sums_takes_little_memory():
    """Each is run by itself; were its session kept by its result, this would take more than 400 MiB."""
    names = ["c", *(f"c{i}" for i in range(1, 401))]
    steps = [n("ReduceSum", a, b) for a, b in itertools.pairwise(names)]
    content = model([*steps, n("Add", ["x", "c400"])], {"c": np.ones((4, 4), np.float32)})
    before = written_into()
    file = read_onnx(content)
    assert file.folded == ("c400",)
    assert written_into() - before < 100 * 2**10


def written_into():
    """KiB of memory that this process may write into."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmData"))
