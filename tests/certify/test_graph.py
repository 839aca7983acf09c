"""What is read is what onnxruntime runs; what is not understood is refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lipmodel.certify.lipschitz import bound_lipschitz
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import FileFormatError, ModelError, UnsupportedError
from lipmodel.network import ops
from lipmodel.network.execution import Execution
from lipmodel.network.reader.external_data import digest_of, external_locations
from lipmodel.network.reader.read import MAX_NODES, MAX_OPSET, read_onnx
from lipmodel.network.session import open_session
from lipmodel.norms import Norm
from tests.networks import groupsort_net, to_file

RNG = np.random.default_rng(0)
W = RNG.normal(size=(6, 4)).astype(np.float32)
H = RNG.normal(size=(2, 6)).astype(np.float32)
C = RNG.normal(size=6).astype(np.float32)


def model(
    nodes, initializers=None, *, shape=("N", 4), opset=18, outputs=("y",), dtype=TensorProto.FLOAT, **extra
):
    """An ONNX file with input x and output y."""
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (initializers or {}).items()]
    graph = helper.make_graph(
        nodes,
        "test",
        extra.get("inputs", [helper.make_tensor_value_info("x", dtype, list(shape))]),
        [onnx.ValueInfoProto(name=name) for name in outputs],
        tensors,
    )
    for output in graph.output:
        output.type.tensor_type.elem_type = extra.get("output_type", dtype)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=extra.get("ir_version", 8)
    ).SerializeToString()


def n(op_type, inputs, outputs="y", **attributes):
    outputs = [outputs] if isinstance(outputs, str) else outputs
    return helper.make_node(op_type, inputs if isinstance(inputs, list) else [inputs], outputs, **attributes)


def ints(*values):
    return np.array(values, dtype=np.int64)


DENSE = [n("Gemm", ["x", "W", "c"], "a", transB=1)]
HEAD = [n("MatMul", ["z", "Ht"], "y")]
WEIGHTS = {"W": W, "c": C, "Ht": H.T.copy()}


def middle(*nodes, constants=None, opset=18):
    """x -> dense (6) -> the nodes, from a to z -> dense (2)."""
    return model([*DENSE, *nodes, *HEAD], {**WEIGHTS, **(constants or {})}, opset=opset)


def image(*nodes):
    """x (2 channels of 4 by 3) -> the nodes, to a -> flat scores."""
    constants = {
        "K": RNG.normal(size=(4, 2, 3, 2)).astype(np.float32),
        "G": RNG.normal(size=(4, 1, 2, 2)).astype(np.float32),
        "b": RNG.normal(size=4).astype(np.float32),
    }
    return model([*nodes, n("Flatten", "a", "y")], constants, shape=("N", 2, 4, 3))


READ = {
    "gemm": model([n("Gemm", ["x", "W", "c"], transB=1)], WEIGHTS),
    "gemm untransposed": model([n("Gemm", ["x", "Wt"])], {"Wt": W.T.copy()}),
    "gemm with a bias of one row": model([n("Gemm", ["x", "W", "b"], transB=1)], {"W": W, "b": C[None]}),
    "gemm with a scalar bias": model([n("Gemm", ["x", "W", "b"], transB=1)], {"W": W, "b": C[0]}),
    "matmul and add": model(
        [n("MatMul", ["x", "Wt"], "a"), n("Add", ["c", "a"])], {"Wt": W.T.copy(), "c": C}
    ),
    "relu": middle(n("Relu", "a", "z")),
    "abs": middle(n("Abs", "a", "z")),
    "neg": middle(n("Neg", "a", "z")),
    "identity": middle(n("Identity", "a", "z")),
    "sub a constant": middle(n("Sub", ["a", "c"], "z")),
    "sub from a constant": middle(n("Sub", ["c", "a"], "z")),
    "mul": middle(n("Mul", ["a", "c"], "z")),
    "div": middle(n("Div", ["a", "c"], "z")),
    "max with a constant": middle(n("Max", ["a", "c"], "z")),
    "min with two constants": middle(n("Min", ["c", "a", "d"], "z"), constants={"d": C - 1}),
    "max of tensors and constant": middle(n("Neg", "a", "b"), n("Max", ["a", "c", "b"], "z")),
    "residual": middle(n("Relu", "a", "b"), n("Add", ["a", "b"], "z")),
    "difference of tensors": middle(n("Relu", "a", "b"), n("Sub", ["a", "b"], "z")),
    "topk": middle(n("TopK", ["a", "k"], ["z", "i"]), constants={"k": ints(6)}),
    "topk of some": model(
        [*DENSE, n("TopK", ["a", "k"], ["y", "i"], largest=0)], {**WEIGHTS, "k": ints(3)}
    ),
    "groupsort by topk": middle(
        n("Reshape", ["a", "s"], "r"),
        n("TopK", ["r", "k"], ["t", "i"], axis=-1),
        n("Flatten", "t", "z"),
        constants={"s": ints(-1, 3, 2), "k": ints(2)},
    ),
    "maxmin by split": middle(
        n("Split", "a", ["l", "r"], axis=1, num_outputs=2),
        n("Max", ["l", "r"], "h"),
        n("Min", ["l", "r"], "m"),
        n("Concat", ["h", "m"], "z", axis=1),
    ),
    "maxmin by strided slices": middle(
        n("Slice", ["a", "0", "end", "1", "2"], "l"),
        n("Slice", ["a", "1", "end", "1", "2"], "r"),
        n("Min", ["l", "r"], "m"),
        n("Max", ["r", "l"], "h"),
        n("Concat", ["m", "h"], "z", axis=-1),
        constants={"0": ints(0), "1": ints(1), "2": ints(2), "end": ints(2**62)},
    ),
    "slice backwards": middle(
        n("Slice", ["a", "s", "e", "1", "m"], "z"),
        constants={"s": ints(-1), "e": ints(-(2**60)), "1": ints(1), "m": ints(-1)},
    ),
    "gather": middle(n("Gather", ["a", "i"], "z", axis=1), constants={"i": ints(5, -4, 0, 1, 3, 4)}),
    "transpose, squeeze, unsqueeze": middle(
        n("Reshape", ["a", "s"], "r"),
        n("Transpose", "r", "t", perm=[0, 2, 1]),
        n("Unsqueeze", ["t", "1"], "u"),
        n("Squeeze", ["u", "1"], "v"),
        n("Reshape", ["v", "f"], "z"),
        constants={"s": ints(0, 2, -1), "1": ints(1), "f": ints(-1, 6)},
    ),
    "one index of an axis": middle(
        n("Reshape", ["a", "s"], "r"),
        n("Gather", ["r", "i"], "g", axis=2),
        n("Gather", ["r", "j"], "g2", axis=2),
        n("Concat", ["g", "g2"], "z", axis=1),
        constants={"s": ints(0, 3, 2), "i": np.int64(1), "j": np.int64(0)},
    ),
    "class scores by groups of maxima": model(
        [*DENSE, n("Reshape", ["a", "s"], "r"), n("ReduceMax", ["r", "ax"], "y", keepdims=0)],
        {**WEIGHTS, "s": ints(-1, 3, 2), "ax": ints(-1)},
    ),
    "folded constants": model(
        [
            n("Transpose", "W", "Wt", perm=[1, 0]),
            n("Mul", ["Wt", "two"], "W2"),
            n("Constant", [], "b", value_floats=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            n("MatMul", ["x", "W2"], "a"),
            n("Add", ["a", "b"]),
        ],
        {"W": W, "two": np.float32(2)},
    ),
    "cast up": model(
        [n("Cast", "x", "d", to=TensorProto.DOUBLE), n("MatMul", ["d", "Wt"])],
        {"Wt": W.T.astype(np.float64)},
        output_type=TensorProto.DOUBLE,
    ),
    "input of three axes": model(
        [n("Flatten", "x", "f"), n("MatMul", ["f", "Wt"])], {"Wt": W.T.copy()}, shape=("N", 2, 2)
    ),
    "dense on the last axis": model(
        [n("MatMul", ["x", "V"], "a"), n("Add", ["a", "v"], "b"), n("Flatten", "b")],
        {"V": W[:2, :2].copy(), "v": C[:2].copy()},
        shape=("N", 3, 2),
    ),
    "float64": model([n("MatMul", ["x", "W"])], {"W": W.T.astype(np.float64)}, dtype=TensorProto.DOUBLE),
    "leaky relu": middle(n("LeakyRelu", "a", "z", alpha=0.3)),
    "leaky relu that rises": middle(n("LeakyRelu", "a", "z", alpha=-1.7)),
    "prelu": middle(n("PRelu", ["a", "c"], "z")),
    "clip": middle(n("Clip", ["a", "l", "h"], "z"), constants={"l": np.float32(-0.5), "h": np.float32(0.7)}),
    "clip of an old opset": middle(n("Clip", "a", "z", min=-0.5), opset=7),
    "conv": image(n("Conv", ["x", "K", "b"], "a", pads=[1, 1, 1, 1])),
    "conv with a stride": image(n("Conv", ["x", "K"], "a", strides=[2, 1], pads=[0, 1, 1, 0])),
    "conv with a dilation": image(n("Conv", ["x", "K"], "a", dilations=[2, 1], pads=[1, 0, 1, 0])),
    "conv with both": image(n("Conv", ["x", "K"], "a", dilations=[2, 2], strides=[2, 1], pads=[2, 2, 2, 2])),
    "conv in groups": image(n("Conv", ["x", "G", "b"], "a", group=2)),
    "conv of one axis": model(
        [n("Conv", ["x", "K"], "a", pads=[1, 0]), n("Flatten", "a", "y")],
        {"K": RNG.normal(size=(3, 2, 2)).astype(np.float32)}, shape=("N", 2, 5),
    ),
    "average pool": image(n("AveragePool", "x", "a", kernel_shape=[2, 2], strides=[2, 2])),
    "average pool over padding": image(
        n("AveragePool", "x", "a", kernel_shape=[3, 2], pads=[1, 1, 1, 0], count_include_pad=1)
    ),
    "average pool beside padding": image(n("AveragePool", "x", "a", kernel_shape=[3, 2], pads=[1, 1, 1, 0])),
    "max pool": image(n("MaxPool", "x", "a", kernel_shape=[2, 2], strides=[2, 2])),
    "max pool that overlaps": image(n("MaxPool", "x", "a", kernel_shape=[2, 3], pads=[1, 1, 0, 1])),
    "global average pool": image(n("GlobalAveragePool", "x", "a")),
    "global max pool": image(n("GlobalMaxPool", "x", "a")),
    "probabilities beside the scores": model(
        [*DENSE, n("Identity", "a", "y"), n("Softmax", "a", "p")], WEIGHTS, outputs=("p", "y")
    ),
    "shape arithmetic of an exporter": middle(
        n("Shape", "a", "shape"),
        n("Gather", ["shape", "0"], "batch"), n("Gather", ["shape", "1"], "width"),
        n("Div", ["width", "2"], "half"), n("Cast", "half", "whole", to=TensorProto.INT64),
        n("Unsqueeze", ["batch", "axis"], "b"), n("Unsqueeze", ["whole", "axis"], "h"),
        n("Concat", ["b", "h", "pair"], "target", axis=0),
        n("Reshape", ["a", "target"], "r"), n("ReduceMin", ["r", "last"], "low"), n("ReduceMax", ["r", "last"], "high"),
        n("Concat", ["low", "high"], "s", axis=2), n("Slice", ["shape", "axis", "end"], "same"),
        n("Reshape", ["s", "same"], "z"),
        constants={"0": np.int64(0), "1": np.int64(1), "2": np.int64(2), "axis": ints(0), "pair": ints(2),
                   "last": ints(2), "end": ints(2)},
    ),
    "weights normalised in the graph": model(
        [n("Abs", "W", "abs"), n("ReduceSum", ["abs", "1"], "s"), n("Max", ["s", "one"], "m"), n("Div", ["W", "m"], "V"),
         n("Gemm", ["x", "V"], "y", transB=1)],
        {"W": W, "1": ints(1), "one": np.float32([[1]])},
    ),
    "fixed batch": model([n("Reshape", ["x", "s"], "f"), n("MatMul", ["f", "Wt"])],
                         {"Wt": W.T.copy(), "s": ints(1, 4)}, shape=(1, 2, 2)),
    "a dead branch of an unknown operator": model(
        [*DENSE, n("Erf", "a", "dead"), n("Relu", "a")], WEIGHTS
    ),
    "opset 7": model(
        [
            *DENSE,
            n("Slice", "a", "l", axes=[1], starts=[0], ends=[3]),
            n("Split", "a", ["p", "q"], axis=1, split=[3, 3]),
            n("Unsqueeze", "l", "u", axes=[1]),
            n("Squeeze", "u", "s", axes=[1]),
            n("TopK", "s", ["t", "i"], axis=1, k=3),
            n("Concat", ["t", "q"], "z", axis=1),
            *HEAD,
        ],
        WEIGHTS,
        opset=7,
    ),
    "newest opset": middle(n("Relu", "a", "z"), opset=MAX_OPSET),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_certified(name):
    """The predictor runs the file beside the program written from its graph, on points of its own."""
    predictor = CertifiedPredictor(READ[name])
    x = RNG.normal(size=(5, predictor.file.graph.input_size))
    radii = predictor.predict(x).radii.certified_radius
    assert (np.isfinite(radii) & (radii >= 0)).all()


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_what_onnxruntime_runs(name):
    file = read_onnx(READ[name])
    session = open_session(READ[name])
    rows = session.get_inputs()[0].shape[0]
    x = RNG.normal(size=(rows if isinstance(rows, int) else 9, *file.graph.input_shape)).astype(file.dtype)
    (theirs,) = session.run(["y"], {"x": x})
    ours = Execution(file.graph, np.float64).scores(x)
    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours).max() < 1e-4
    bounds = bound_lipschitz(file.graph, Norm.TWO)
    assert np.isfinite(bounds.bound_global)
    assert bounds.bound_global > 0


REFUSED = {
    "clip with its ends the wrong way round": (
        model([n("Clip", ["x", "two", "one"])], {"two": np.float32(2), "one": np.float32(1)}, opset=12),
        "min above max",
    ),
    "unknown operator": (middle(n("Erf", "a", "z")), r"node 'z' \(Erf\).*not supported yet; replace it"),
    "tanh": (middle(n("Tanh", "a", "z")), r"node 'z' \(Tanh\).*not supported yet; replace it"),
    "sigmoid in a hidden layer": (middle(n("Sigmoid", "a", "z")), r"\(Sigmoid\).*not supported yet"),
    "softmax at the end": (model([*DENSE, n("Softmax", "a")], WEIGHTS), "Softmax"),
    "unknown domain": (middle(n("Relu", "a", "z", domain="evil")), "domain 'evil'"),
    "unknown attribute": (middle(n("Relu", "a", "z", alpha=2.0)), "attribute 'alpha'"),
    "product of tensors": (middle(n("Mul", ["a", "a"], "z")), "constant factor"),
    "division by a tensor": (middle(n("Div", ["c", "a"], "z")), "constant factor"),
    "division by zero": (middle(n("Div", ["a", "d"], "z"), constants={"d": C * 0}), "divides by zero"),
    "gemm with alpha": (model([n("Gemm", ["x", "W"], alpha=2.0, transB=1)], WEIGHTS), "alpha"),
    "gemm with transA": (model([n("Gemm", ["x", "x"], transA=1)]), "transA"),
    "matmul of tensors": (model([n("MatMul", ["x", "x"])]), "depends on the network's input"),
    "constant on the left": (model([n("MatMul", ["W", "x"])], WEIGHTS), "input 0 is constant"),
    "batch sorted": (middle(n("TopK", ["a", "k"], ["z", "i"], axis=0), constants={"k": ints(1)}), "batch"),
    "batch reduced": (model([*DENSE, n("ReduceMax", "a", "y")], WEIGHTS), "over the batch"),
    "batch sliced": (middle(n("Slice", ["a", "s", "e"], "z"), constants={"s": ints(0), "e": ints(1)}), "batch"),
    "batch concatenated": (middle(n("Concat", ["a", "a"], "z", axis=0)), "batch"),
    "batch gathered": (middle(n("Gather", ["a", "i"], "z"), constants={"i": ints(0)}), "batch"),
    "batch transposed": (middle(n("Transpose", "a", "z")), "batch axis"),
    "batch mixed by reshape": (
        middle(n("Reshape", ["a", "s"], "z"), constants={"s": ints(-1, 3)}), "would mix samples",
    ),
    "batch frozen by reshape": (
        middle(n("Reshape", ["a", "s"], "z"), constants={"s": ints(1, -1)}), "keep the batch axis",
    ),
    "batch squeezed": (middle(n("Squeeze", "a", "z")), "has no axes"),
    "batch unsqueezed": (middle(n("Unsqueeze", ["a", "0"], "z"), constants={"0": ints(0)}), "axis 0"),
    "batch flattened": (middle(n("Flatten", "a", "z", axis=0)), "axis = 1"),
    "rows treated differently": (
        model([*DENSE, n("Add", ["a", "d"])], {**WEIGHTS, "d": np.stack([C, C])}), "differs between samples",
    ),
    "repeated index": (middle(n("Gather", ["a", "i"], "z", axis=1), constants={"i": ints(0, 0)}), "distinct"),
    "indices used": (
        model([*DENSE, n("TopK", ["a", "k"], ["v", "i"]), n("Cast", "i", "y", to=1)], {**WEIGHTS, "k": ints(2)}),
        "'i', which no earlier node makes",
    ),
    "unsorted topk": (middle(n("TopK", ["a", "k"], ["z", "i"], sorted=0), constants={"k": ints(6)}), "order open"),
    "a flag that is neither 0 nor 1": (
        middle(n("TopK", ["a", "k"], ["z", "i"], largest=3), constants={"k": ints(6)}), "largest = 3",
    ),
    "an axis named twice": (
        middle(n("Unsqueeze", ["a", "t"], "u"), n("Flatten", "u", "z"), constants={"t": ints(1, 1)}), "twice",
    ),
    "k too large": (middle(n("TopK", ["a", "k"], ["z", "i"]), constants={"k": ints(7)}), "k = "),
    "cast down": (
        model([n("Cast", "x", "y", to=TensorProto.FLOAT)], dtype=TensorProto.DOUBLE), "float32 to float64",
    ),
    "float16 weights": (model([n("Gemm", ["x", "W"], transB=1)], {"W": W.astype(np.float16)}), "float16"),
    "a NaN weight": (model([n("Gemm", ["x", "W"], transB=1)], {"W": W * np.nan}), "'W' has a NaN"),
    "an infinite weight": (model([n("Gemm", ["x", "W"], transB=1)], {"W": W * np.float32(np.inf)}), "infinity"),
    "division by a subnormal number": (
        middle(n("Div", ["a", "d"], "z"), constants={"d": np.full_like(C, 1e-39)}), "subnormal",
    ),
    "mixed formats": (model([n("Add", ["x", "d"])], {"d": np.ones(4)}), "float64"),
    "weights that do not fit": (model([n("MatMul", ["x", "W"])], WEIGHTS), r"weights \(4, 6\)"),
    "overflow in a constant": (
        model([n("Mul", ["big", "big"], "c"), n("Add", ["x", "c"])], {"big": np.float32([3e38])}), "infinity",
    ),
    "a constant that is not folded": (
        model([n("Softmax", "W", "s"), n("MatMul", ["x", "s"])], {"W": W.T.copy()}), "not supported for this operator",
    ),
    "an output that is a constant": (model([n("Identity", "W", "y")], WEIGHTS), "does not depend"),
    "an output of two axes": (model([n("Relu", "x")], shape=("N", 2, 2)), "class scores"),
    "two outputs that could be scores": (
        model([n("Relu", "x"), n("Abs", "x", "w")], outputs=("y", "w")), "2 outputs of the graph",
    ),
    "no output of scores": (
        model([*DENSE, n("Softmax", "a"), n("ArgMax", "a", "w")], WEIGHTS, outputs=("w", "y")),
        "no output of the graph.*make 'a' an output",
    ),
    "two inputs": (
        model(
            [n("Add", ["x", "x2"])],
            inputs=[helper.make_tensor_value_info(i, TensorProto.FLOAT, ["N", 4]) for i in ("x", "x2")],
        ),
        "2 inputs",
    ),
    "no inputs": (model([n("Identity", "W", "y")], WEIGHTS, inputs=[]), "0 inputs"),
    "an initializer that is also an input": (
        model(
            [*DENSE, n("Relu", "a")], WEIGHTS,
            inputs=[helper.make_tensor_value_info("x", 1, ["N", 4]), helper.make_tensor_value_info("W", 1, [6, 4])],
        ),
        "could replace the weights",
    ),
    "an input of integers": (model([n("Abs", "x")], dtype=TensorProto.INT64), "not a float32"),
    "an input without batch": (model([n("Relu", "x")], shape=(4,)), "at least one more axis"),
    "an input of unknown width": (model([n("Relu", "x")], shape=("N", "d")), "only the first axis"),
    "too old an opset": (model([n("Relu", "x")], opset=6), "opset 6"),
    "too new an opset": (model([n("Relu", "x")], opset=MAX_OPSET + 1), "opset"),
    "a tensor made twice": (model([n("Relu", "x", "y"), n("Abs", "x", "y")]), "defined twice"),
    "a cycle": (model([n("Add", ["x", "b"], "a"), n("Relu", "a", "b"), n("Relu", "b", "y")]), "no earlier node"),
    "too many nodes": (model([n("Relu", "x", f"t{i}") for i in range(MAX_NODES + 1)]), "at most"),
    "control flow": (
        middle(n("Identity", "a", "q"), n("If", ["flag"], "z", then_branch=helper.make_graph([], "g", [], [])),
               constants={"flag": np.array(True)}), "If",
    ),
    "padding given by a name": (
        model([n("Conv", ["x", "K"], "y", auto_pad="SAME_UPPER")], {"K": W.reshape(6, 1, 2, 2)}, shape=("N", 1, 5, 5)),
        "auto_pad",
    ),
    "pooling with ceil_mode": (
        model([n("MaxPool", "x", "y", kernel_shape=[2, 2], ceil_mode=1)], shape=("N", 1, 5, 5)), "ceil_mode",
    ),
    "batch normalisation": (
        model([n("BatchNormalization", ["x", "b", "b", "b", "b"], "y")], {"b": C[:2]}, shape=("N", 2, 3, 3)),
        "BatchNormalization",
    ),
    "a kernel that does not fit": (
        model([n("Conv", ["x", "K"], "y")], {"K": W.reshape(6, 1, 2, 2)}, shape=("N", 2, 5, 5)), "channels",
    ),
    "a malformed node": (middle(n("Add", ["a"], "z")), "Add"),
    "an input that is absent and not optional": (
        model([n("Split", "x", ["a", "b"], axis=1), n("Max", ["a", "", "b"])], shape=("N", 4)),
        r"lacks its required input 1 \('data_0'\)",
    ),
    "parts that are not those told": (
        model(
            [n("Split", "x", ["a", "b"], axis=1, num_outputs=1), n("Max", ["a", "b"])], shape=("N", 4), opset=18
        ),
        "has 2 outputs but num_outputs = 1",
    ),
    "a constant that is missing": (middle(n("Mul", ["a"], "z")), r"has 1 input\(s\); expected 2 to 2"),
    "a slice that selects nothing": (
        middle(n("Slice", ["a", "s", "e", "1"], "z"), constants={"s": ints(4), "e": ints(2), "1": ints(1)}),
        "selects no entries",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_by_name(name):
    content, reason = REFUSED[name]
    with pytest.raises(ModelError, match=reason):
        read_onnx(content)


def tampered(change):
    proto = onnx.load_model_from_string(to_file(groupsort_net()))
    change(proto)
    return proto.SerializeToString()


def set_external(proto):
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


MALFORMED = {
    "empty": (b"", "empty"),
    "text": (b"not a model", "not an ONNX model"),
    "truncated": (to_file(groupsort_net())[:-40], "not an ONNX model|truncated|carries"),
    "external data": (tampered(set_external), "another file.*save_as_external_data=False"),
    "2 GB claimed": (tampered(lambda p: p.graph.initializer[0].dims.__setitem__(0, 2**29)), "at most"),
    "more claimed than carried": (
        tampered(lambda p: p.graph.initializer[0].dims.__setitem__(0, 1000)), "declares .* but has",
    ),
    "a negative dimension": (tampered(lambda p: p.graph.initializer[0].dims.__setitem__(0, -1)), "negative"),
    "two initializers of a name": (
        tampered(lambda p: p.graph.initializer.append(p.graph.initializer[0])), "two initializers",
    ),
    "no opset": (tampered(lambda p: p.ClearField("opset_import")), "in versions .*expected one"),
    "no graph": (tampered(lambda p: p.ClearField("graph")), "no graph"),
    "names that are no text": (
        to_file(groupsort_net()).replace(b"Gemm", b"Gem\xb7"), "not UTF-8",
    ),
    "functions": (tampered(lambda p: p.functions.add(name="f", domain="")), "functions"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused(name):
    content, reason = MALFORMED[name]
    with pytest.raises((FileFormatError, UnsupportedError), match=reason):
        read_onnx(content)


def test_outputs_with_names_that_are_no_text_are_refused():
    proto = onnx.load_model_from_string(to_file(groupsort_net()))
    proto.graph.output.add().CopyFrom(proto.graph.output[0])
    proto.graph.output[1].name = "another"
    with pytest.raises(FileFormatError, match="not UTF-8"):
        read_onnx(proto.SerializeToString().replace(b"another", b"anoth\xb7r"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"gone\.onnx"):
        read_onnx(tmp_path / "gone.onnx")


def test_every_prefix_of_a_file_is_refused_or_equal():
    content = to_file(groupsort_net((2, 4), 2))
    for length in range(0, len(content) - 1, 7):
        with pytest.raises(ModelError):
            read_onnx(content[:length])


def test_random_bytes_flipped_never_crash():
    content = bytearray(to_file(groupsort_net((2, 4), 2)))
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(400):
        copy = bytearray(content)
        for position in rng.integers(0, len(copy), size=rng.integers(1, 4)):
            copy[position] = rng.integers(0, 256)
        try:
            read_onnx(bytes(copy))
            outcomes.add("read")
        except ModelError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def kinds(content):
    return [type(op).__name__ for op in read_onnx(content).graph.ops]


def test_maxmin_is_read_jointly():
    for name in ("maxmin by split", "maxmin by strided slices"):
        assert kinds(READ[name]) == ["Dense", "SortingNetwork", "Dense"]


@pytest.mark.parametrize("group_size", [2, 3, 4, 6, 8])
def test_groupsort_of_any_size_loses_nothing(group_size):
    file = read_onnx(to_file(groupsort_net((5, 24, 24), 1, group_size=group_size)))
    assert [type(op).__name__ for op in file.graph.ops].count("SortingNetwork") == 2
    assert bound_lipschitz(file.graph, Norm.TWO).bound_global == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "concat",
    [["h", "h2"], ["h", "l"], ["l", "r"], ["h", "m", "l"]],
    ids=["two maxima of the same", "max and an input", "no comparator", "an input beside"],
)
def test_what_only_looks_like_maxmin_is_not_read_jointly(concat):
    """Were these read as sorting networks, [l, h] of equal l, r would move √2 times as far as claimed."""
    content = model(
        [
            *DENSE,
            n("Split", "a", ["l", "r"], axis=1, num_outputs=2),
            n("Max", ["l", "r"], "h"),
            n("Max", ["r", "l"], "h2"),
            n("Min", ["l", "r"], "m"),
            n("Concat", concat, "y", axis=1),
        ],
        WEIGHTS,
    )
    assert "SortingNetwork" not in kinds(content)


def test_overlapping_slices_are_not_read_jointly():
    content = middle(
        n("Slice", ["a", "0", "4", "1"], "l"),
        n("Slice", ["a", "2", "6", "1"], "r"),
        n("Max", ["l", "r"], "h"),
        n("Min", ["l", "r"], "m"),
        n("Concat", ["h", "m"], "c8", axis=1),
        n("Slice", ["c8", "0", "6", "1"], "z"),
        constants={"0": ints(0), "1": ints(1), "2": ints(2), "4": ints(4), "6": ints(6)},
    )
    assert "SortingNetwork" not in kinds(content)


def test_bias_is_merged_into_its_layer():
    assert kinds(READ["matmul and add"]) == ["Dense"]
    assert read_onnx(READ["matmul and add"]).graph.ops[0].bias is not None


def test_reading_says_what_is_in_the_file():
    file = read_onnx(READ["maxmin by split"])
    assert file.operators == {"Concat": 1, "Gemm": 1, "MatMul": 1, "Max": 1, "Min": 1, "Split": 1}
    assert file.dtype is np.float32
    assert isinstance(file.graph.ops[0], ops.Dense)
    assert file.graph.ops[0].node == "a"


@pytest.mark.parametrize("name", READ)
def test_what_is_written_in_float32_can_be_read_again(name):
    file = read_onnx(READ[name])
    if file.dtype is np.float64 or name == "cast up":
        pytest.skip("these weights are no float32 numbers")
    again = read_onnx(to_file(file.graph))
    x = RNG.normal(size=(4, file.graph.input_size))
    difference = Execution(again.graph, np.float64).scores(x) - Execution(file.graph, np.float64).scores(x)
    assert np.abs(difference).max() < 1e-12


def test_pairs_reduced_both_ways_are_sorted():
    assert kinds(READ["shape arithmetic of an exporter"]).count("SortingNetwork") == 1


def test_weights_that_runtimes_may_round_differently_are_not_portable():
    content = READ["weights normalised in the graph"]
    predictor = CertifiedPredictor(content)
    assert not predictor.file.portable
    assert (predictor.portable_radii(np.ones((3, 4))) == 0).all()
    assert predictor.predict(np.ones((3, 4))).radii.certified_radius.min() > 0


def external(tmp_path, location="net.onnx.data", **place):
    """A file whose first weights lie in another file, as torch's exporter writes them."""
    proto = onnx.load_model_from_string(to_file(groupsort_net()))
    tensor = proto.graph.initializer[0]
    (tmp_path / "net.onnx.data").write_bytes(b"head" + tensor.raw_data + b"tail")
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 4, "length": size, **place}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_weights_beside_the_file_are_read_and_count_in_the_digest(tmp_path):
    path = external(tmp_path)
    file = read_onnx(path)
    assert (file.graph.ops[0].weight == groupsort_net().ops[0].weight).all()
    assert CertifiedPredictor(path).predict(np.ones((1, 4))).scores.shape == (1, 3)
    data = tmp_path / "net.onnx.data"
    data.write_bytes(data.read_bytes()[:-4] + b"TAIL")
    assert read_onnx(path).sha256 != file.sha256


@pytest.mark.parametrize(
    ("location", "place", "reason"),
    [
        ("../net.onnx.data", {}, "outside the model's folder"),
        ("/etc/passwd", {}, "outside|malformed file name"),
        ("", {}, "malformed file name"),
        ("gone.data", {}, "cannot be read"),
        ("link.data", {}, "behind a symbolic link"),
        ("link/net.onnx.data", {}, "behind a symbolic link"),
        ("loop.data", {}, "cannot be read"),
        (".", {}, "file name|not a regular file"),
        ("net.onnx.data", {"offset": 10**9}, "which has only"),
        ("net.onnx.data", {"offset": -1}, "which has only"),
        ("net.onnx.data", {"length": 10**12}, "which has only"),
        ("net.onnx.data", {"length": 8}, "declares .* but has"),
        ("net.onnx.data", {"offset": "four"}, "malformed offset"),
    ],
)
def test_external_data_elsewhere_is_refused(tmp_path, location, place, reason):
    (tmp_path / "secret").write_bytes(b"x" * 1000)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link.data").symlink_to(tmp_path / "secret")
    (folder / "link").symlink_to(tmp_path)
    (folder / "loop.data").symlink_to(folder / "loop.data")
    (tmp_path / "net.onnx.data").write_bytes(b"x" * 1000)
    path = external(folder, location, **place)
    with pytest.raises(FileFormatError, match=reason):
        read_onnx(path)


def test_weight_files_are_bounded_together_whatever_they_are_called(tmp_path, monkeypatch):
    """One file of 2 GiB under a thousand names would be read a thousand times."""
    path = external(tmp_path)
    with (tmp_path / "net.onnx.data").open("ab") as file:
        file.write(bytes(10_000))
    net = onnx.load(path, load_external_data=False)
    second = min(net.graph.initializer[1:], key=lambda tensor: len(tensor.raw_data))
    places = {"location": "./net.onnx.data", "offset": 4, "length": len(second.raw_data)}
    second.ClearField("raw_data")
    second.data_location = TensorProto.EXTERNAL
    for key, value in places.items():
        second.external_data.add(key=key, value=str(value))
    path.write_bytes(net.SerializeToString())
    locations, size = external_locations(net), (tmp_path / "net.onnx.data").stat().st_size
    assert locations == ["./net.onnx.data", "net.onnx.data"]
    assert read_onnx(path).sha256 == digest_of(path, locations, max_bytes=10**6)
    monkeypatch.setattr("lipmodel.network.reader.external_data.MAX_BYTES", size)
    with pytest.raises(FileFormatError, match="all weight files together"):
        read_onnx(path)
    assert digest_of(path, locations, max_bytes=size) != digest_of(path, locations, max_bytes=10**6)
    monkeypatch.setattr("lipmodel.network.reader.external_data.MAX_NAMES", 20)
    with pytest.raises(FileFormatError, match="at most 20 are accepted"):
        read_onnx(path)


def test_what_is_dead_is_not_run_either(monkeypatch):
    """Of a missing input to Max onnxruntime dies; a dead Loop could go on for ever."""
    dead = helper.make_node("Max", ["a", ""], ["dead"])
    content = model([*DENSE, dead, n("Relu", "a")], WEIGHTS, outputs=("y",))
    opened = []
    monkeypatch.setattr(
        "lipmodel.network.self_check.open_session",
        lambda content, **how: opened.append(content) or open_session(content, **how),
    )
    assert CertifiedPredictor(content).file.content == content
    run = [{node.op_type for node in onnx.load_model_from_string(c).graph.node} for c in opened]
    assert run
    assert not any("Max" in operators for operators in run)
