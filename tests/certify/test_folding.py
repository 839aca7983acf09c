"""Constants computed in a file: every runtime gets the same, or the file says that it depends, or is refused."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from fuzz.folding import FINE, make, trial
from lipmodel.errors import FileFormatError, UnsupportedError
from lipmodel.network.reader.constants import read_tensor
from lipmodel.network.reader.read import read_onnx
from lipmodel.network.session import open_session
from tests.certify.test_graph import C, W, ints, model, n

F, D, I64, I32 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32
TINY, LEAST = np.float32(1e-40), np.iinfo(np.int64).min


def weights(*nodes, opset=18, **constants):
    """A linear classifier of weights V, which the nodes make of constants: W above all."""
    return model([*nodes, n("Gemm", ["x", "V"], transB=1)], {"W": W, **constants}, opset=opset)


def shift(*nodes, opset=18, **constants):
    """X + V, where the nodes make V."""
    return model([*nodes, n("Add", ["x", "V"])], constants, opset=opset)


PORTABLE = {
    "identity": weights(n("Identity", "W", "V")),
    "transpose": weights(n("Transpose", "M", "V"), M=W.T.copy()),
    "transpose of subnormal numbers": weights(n("Transpose", "M", "V"), M=W.T * TINY),
    "reshape": weights(n("Reshape", ["W", "s"], "V"), s=ints(-1, 4)),
    "flatten": shift(n("Flatten", "c", "V", axis=0), c=C[:4]),
    "squeeze and unsqueeze": weights(n("Unsqueeze", ["W", "a"], "U"), n("Squeeze", ["U", "a"], "V"), a=ints(0)),
    "squeeze of an old opset": shift(n("Squeeze", "U", "V", axes=[0]), U=C[None, :4], opset=7),
    "squeeze of all": weights(n("Squeeze", "U", "V"), U=W[None]),
    "concat": weights(n("Concat", ["W", "W"], "V", axis=0)),
    "slice": weights(n("Slice", ["W", "s", "e"], "V"), s=ints(1), e=ints(2**62)),
    "slice backwards": weights(
        n("Slice", ["W", "s", "e", "a", "t"], "V"), s=ints(-1), e=ints(-(2**60)), a=ints(0), t=ints(-2)
    ),
    "slice of an old opset": shift(n("Slice", "c", "V", starts=[1], ends=[5]), c=C, opset=7),
    "split": weights(n("Split", "W", ["V", "U"], axis=0, num_outputs=2)),
    "split by sizes": weights(n("Split", ["W", "s"], ["U", "V"], axis=0), s=ints(2, 4)),
    "gather": weights(n("Gather", ["W", "i"], "V"), i=ints(-1, 0, 0)),
    "shape and expand": weights(n("Shape", "W", "s"), n("Expand", ["c", "s"], "V"), c=C[:1]),
    "float to double": model(
        [n("Cast", "W", "V", to=D), n("Gemm", ["x", "V"], transB=1)], {"W": W}, dtype=D
    ),
    "double that is float": weights(n("Cast", "M", "V", to=F), M=W.astype(np.float64)),
    "integers to float": weights(n("Cast", "M", "V", to=F), M=np.arange(8).reshape(2, 4)),
    "truths to float": weights(n("Cast", "M", "V", to=F), M=np.eye(4, dtype=bool)),
    "integer arithmetic": weights(
        n("Sub", ["a", "b"], "c"), n("Mul", ["c", "c"], "d"), n("Div", ["d", "b"], "e"), n("Neg", "e", "f"),
        n("Abs", "f", "g"), n("Max", ["g", "b"], "h"), n("Cast", "h", "V", to=F),
        a=np.arange(8).reshape(2, 4), b=ints(3),
    ),
    "the shape of what is computed": weights(
        n("Mul", ["W", "W"], "U"), n("Shape", "U", "s"), n("Expand", ["c", "s"], "V"), c=C[:1]
    ),
    "computed beside the scores": model(
        [n("Gemm", ["x", "W"], transB=1), n("Sqrt", "c", "d"), n("Softmax", "d", "p")],
        {"W": W, "c": C[:2] ** 2}, outputs=("p", "y"),
    ),
}  # fmt: skip

COMPUTED = {
    "one product": weights(n("Mul", ["W", "two"], "V"), two=np.float32(2)),
    "a sign": weights(n("Neg", "W", "V")),
    "fused or not": weights(n("Mul", ["W", "W"], "U"), n("Sub", ["U", "W"], "V")),
    "a quotient": weights(n("Div", ["W", "W"], "V")),
    "a power": weights(n("Pow", ["W", "two"], "V"), two=ints(2)),
    "a matrix product": weights(n("MatMul", ["W", "M"], "V"), M=np.eye(4, dtype=np.float32)),
    "a matrix product with a bias": weights(n("Gemm", ["W", "W", "c"], "U", transA=1), n("Relu", "U", "V"), c=C[:4]),
    "then moved": weights(n("Sqrt", "M", "U"), n("Transpose", "U", "T"), n("Identity", "T", "V"), M=W.T**2),
    "then cast": weights(n("Abs", "d", "e"), n("Cast", "e", "V", to=F), d=np.ones((2, 4))),
    "computed integers": weights(
        n("Add", ["f", "f"], "g"), n("Cast", "g", "s", to=I64), n("Reshape", ["M", "s"], "V"),
        f=np.float32([3, 2]), M=W.ravel(),
    ),
    "a shape of a computed length": shift(  # 0 where the product is rounded, 2 where it is fused
        n("Mul", ["a", "a"], "b"), n("Sub", ["b", "c"], "d"), n("Mul", ["d", "k"], "e"), n("Cast", "e", "i", to=I64),
        n("Slice", ["M", "0", "i"], "m"), n("Shape", "m", "s"), n("Cast", "s", "V", to=F), a=np.float32([1 + 2**-12]),
        c=np.float32([1 + 2**-11]), k=np.float32([2**25]), M=np.zeros(8), **{"0": ints(0)},
    ),
    "a zero with a sign": weights(n("Relu", "M", "V"), M=np.float32([[-0.0, 0.0, -1.0, 1.0]])),
    "a subnormal number cast": model(
        [n("Cast", "s", "V", to=D), n("Add", ["x", "V"])], {"s": np.full(4, TINY)}, dtype=D
    ),
    "a cast to a subnormal number": shift(n("Cast", "s", "V", to=F), s=np.full(4, TINY).astype(np.float64)),
}  # fmt: skip


@pytest.mark.parametrize("name", PORTABLE)
def test_what_every_runtime_computes_alike_stays_portable(name):
    file = read_onnx(PORTABLE[name])
    assert (file.portable, file.folded, file.folded_sha256) == (True, (), None)


@pytest.mark.parametrize("name", COMPUTED)
def test_floats_computed_in_the_file_are_named_by_their_digest(name):
    """The digest is that of the very numbers that onnxruntime computes when it runs the file."""
    content = COMPUTED[name]
    file = read_onnx(content)
    assert not file.portable
    proto = onnx.load_model_from_string(content)
    proto.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in file.folded)
    x = np.ones((1, 4), file.dtype)
    arrays = open_session(proto.SerializeToString()).run(list(file.folded), {"x": x})
    digest = hashlib.sha256()
    for tensor, array in zip(file.folded, arrays, strict=True):
        digest.update(json.dumps([tensor, str(array.dtype), list(array.shape)]).encode() + b"\n")
        digest.update((array + array.dtype.type(0)).tobytes())
    assert file.folded_sha256 == digest.hexdigest()


def chain(*types):
    """V is W cast from type to type and back to float32."""
    names = [f"t{i}" for i in range(len(types))]
    steps = zip(types, ["W", *names], names, strict=False)
    return weights(*(n("Cast", a, b, to=t) for t, a, b in steps), n("Cast", names[-1], "V", to=F), opset=19)


REFUSED = {
    **{
        f"through {TensorProto.DataType.Name(kind)}": (chain(kind), "casts a constant to .*do_constant_folding")
        for kind in (
            TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2, TensorProto.FLOAT16, TensorProto.BFLOAT16,
            TensorProto.STRING, TensorProto.INT8, TensorProto.UINT8, TensorProto.UINT64, TensorProto.UNDEFINED,
        )
    },
    "rounded twice": (chain(D, TensorProto.FLOAT16), "casts a constant to float16"),
    "a type that is none": (chain(99), "number 99"),
    "a float truncated": (chain(I64), "loses some of their value"),
    "a double rounded": (weights(n("Cast", "M", "V", to=F), M=W / np.float64(3)), "loses some"),
    "a float beyond integers": (
        weights(n("Cast", "b", "i", to=I64), n("Cast", "i", "V", to=F), b=np.full((2, 4), 2.0**63, np.float32)),
        "loses some",
    ),
    "a float beyond 32 bits": (
        weights(n("Cast", "b", "i", to=I32), n("Cast", "i", "V", to=F), b=np.full((2, 4), 2.0**31, np.float32)),
        "loses some",
    ),
    "an integer that wraps": (
        weights(n("Cast", "b", "i", to=I32), n("Cast", "i", "V", to=F), b=np.full((2, 4), 2**40)), "loses some",
    ),
    "an integer that is no float": (weights(n("Cast", "b", "V", to=F), b=np.full((2, 4), 2**24 + 1)), "loses some"),
    "the largest integer": (weights(n("Cast", "b", "V", to=D), b=np.full((2, 4), 2**63 - 1)), "loses some"),
    "a number for a truth": (chain(TensorProto.BOOL), "loses some"),
    "integers that end the process": (
        shift(n("Div", ["a", "b"], "c"), n("Cast", "c", "V", to=F), a=ints(LEAST), b=ints(-1)), "positive divisors",
    ),
    "division by zero": (
        shift(n("Div", ["a", "b"], "c"), n("Cast", "c", "V", to=F), a=ints(1), b=ints(0)), "positive divisors",
    ),
    "a negative quotient": (
        shift(n("Div", ["a", "b"], "c"), n("Cast", "c", "V", to=F), a=ints(-7), b=ints(2)), "different directions",
    ),
    "a product that wraps": (
        shift(n("Mul", ["a", "a"], "c"), n("Cast", "c", "V", to=F), a=ints(2**32)), "leaves the range",
    ),
    "a sum of 32 bits that wraps": (
        shift(n("Add", ["a", "a"], "c"), n("Cast", "c", "V", to=F), a=np.int32([2**30])), "leaves the range",
    ),
    "a negation that wraps": (
        shift(n("Neg", "a", "c"), n("Cast", "c", "V", to=F), a=ints(LEAST)), "leaves the range",
    ),
    "a batch that may be zero": (
        model(
            [n("Shape", "x", "s"), n("Gather", ["s", "0"], "b"), n("Sub", ["b", "k"], "z"), n("Div", ["k", "z"], "q"),
             n("Concat", ["four", "q"], "t", axis=0), n("Gather", ["t", "0"], "u"), n("Cast", "u", "V", to=F),
             n("Add", ["x", "V"])],
            {"0": ints(0), "k": ints(1), "four": ints(4)},
        ),
        "positive divisors",
    ),
    "a wrong number of parts": (
        weights(n("Split", "W", ["V", "U"], axis=0, num_outputs=1)), "num_outputs = 1",
    ),
    "parts that do not make up the axis": (
        weights(n("Split", ["W", "s"], ["V", "U"], axis=0), s=ints(2, 5)), "with the sum 6",
    ),
    "a beginning that runtimes read differently": (
        weights(n("Slice", ["W", "s", "e", "a", "t"], "V"), s=ints(-9), e=ints(-20), a=ints(0), t=ints(-1)),
        "backwards",
    ),
    "an index outside": (weights(n("Gather", ["W", "i"], "V"), i=ints(6)), "out of bounds"),
    "an unknown attribute": (weights(n("Neg", "W", "V", axis=1)), "attribute 'axis'"),
    "sums of integers": (
        shift(n("ReduceSum", "a", "c"), n("Cast", "c", "V", to=F), a=ints(1, 2)), "ReduceSum of int64",
    ),
    "formats mixed": (weights(n("Mul", ["W", "d"], "V"), d=np.ones(4)), "mixes float32 and float64"),
    "no axes to squeeze": (
        shift(
            n("Squeeze", ["U", "a"], "s"), n("Shape", "s", "t"), n("Gather", ["t", "0"], "u"), n("Cast", "u", "V", to=F),
            U=C[None, :4], a=ints(), **{"0": ints(0)},
        ),
        "some runtimes remove none",
    ),
    "a shape that ends before its first axis": (
        shift(n("Shape", "U", "s", end=-3), n("Concat", ["k", "s"], "t", axis=0), n("Cast", "t", "V", to=F),
              U=C[None, :4], k=ints(6)),
        "before the first of 2 axes",
    ),
    "an open shape that begins before its first axis": (
        model([n("Shape", "x", "s", start=-3), n("Cast", "s", "V", to=I64), n("Reshape", ["x", "V"])]),
        "before the first of 2 axes",
    ),
    "an open shape of no axes": (
        model([n("Shape", "x", "s", start=0.5), n("Reshape", ["x", "s"])]), "is malformed",
    ),
    "an open shape beyond its type": (
        model(
            [n("Shape", "x", "s"), n("Concat", ["s", "k"], "t", axis=0), n("Cast", "t", "u", to=I32),
             n("Gather", ["u", "2"], "v"), n("Cast", "v", "V", to=F), n("Add", ["x", "V"])],
            {"k": ints(2**40), "2": ints(2)},
        ),
        "int32|too large",
    ),
    "sizes that wrap in the type they were cast to": (
        model(
            [n("Shape", "x", "s"), n("Cast", "s", "t", to=I32), n("Gather", ["t", "1"], "m0"),
             *(n("Mul", [f"m{i}"] * 2, f"m{i + 1}") for i in range(4)), n("Cast", "m4", "V", to=F), n("Add", ["x", "V"])],
            {"1": ints(1)},
        ),
        "leaves the range",
    ),
    "a shape of computed floats": (
        model(
            [n("Shape", "x", "s"), n("Gather", ["s", "0"], "b"), n("Abs", "f", "g"), n("Cast", "g", "i", to=I64),
             n("Concat", ["b", "i"], "t", axis=0), n("Reshape", ["x", "t"])],
            {"0": ints(0), "f": np.float32([4])},
        ),
        "from computed floats",
    ),
    "a value of two names": (shift(n("Constant", [], "V", value_float=1.0, value_int=1)), "has 2 values"),
    "a value of another type": (shift(n("Constant", [], "V", value_ints=[1.5])), "neither a tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_runtimes_read_in_different_ways_is_refused(name):
    content, reason = REFUSED[name]
    with pytest.raises(UnsupportedError, match=reason):
        read_onnx(content)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"data_type": TensorProto.BOOL, "int32_data": [0, 1, 2, 256]}, "booleans other than 0 and 1"),
        ({"data_type": TensorProto.BOOL, "raw_data": bytes([0, 1, 2, 1])}, "booleans other than 0 and 1"),
        ({"data_type": F, "float_data": [1] * 4, "raw_data": bytes(16)}, "in both float_data and raw_data"),
        ({"data_type": F, "float_data": [1] * 4, "int32_data": [1] * 4}, "in both float_data and int32_data"),
    ],
)
def test_tensors_that_runtimes_read_in_different_ways_are_refused(fields, reason):
    tensor = onnx.TensorProto(name="c", dims=[4], **fields)
    with pytest.raises(FileFormatError, match=reason):
        read_tensor(tensor)


def test_random_constants_are_what_onnxruntime_and_the_reference_compute():
    """The fuzzer in brief; ``python -m fuzz.folding`` goes on."""
    rng = np.random.default_rng(0)
    outcomes = {trial(make(rng)) for _ in range(250)}
    assert {"portable, as in both", "computed, of that digest", "refused"} <= outcomes <= FINE
