"""A file that was misread is refused, at whatever size of the input the constant matters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lipmodel.certify import predictor as module
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import ModelError
from lipmodel.network import ops
from lipmodel.network.ops import Graph
from lipmodel.network.reader.read import read_onnx
from lipmodel.network.writer import to_bytes, write_model
from lipmodel.verify.proof import Proof
from tests.networks import dense, float32

RNG = np.random.default_rng(0)
WEIGHT = float32(RNG.normal(size=(6, 4)))
LAST = float32(RNG.normal(size=(3, 6)))


def net(kind, values):
    """Dense, one operation with a constant a unit, dense."""
    middle = {
        "high": ops.Clip(output="b", inputs=("a",), shape=(6,), high=values),
        "low": ops.Clip(output="b", inputs=("a",), shape=(6,), low=values),
        "offset": ops.Shift(output="b", inputs=("a",), shape=(6,), offset=values),
    }[kind]
    layers = (dense("a", "input", WEIGHT), middle, dense("c", "b", LAST))
    return Graph(input="input", input_shape=(4,), ops=layers, output="c")


def misread(content, kind, unit, monkeypatch):
    """The predictor of a file, one of whose constants is read as half as large again."""
    file = read_onnx(content)
    (at,) = (index for index, op in enumerate(file.graph.ops) if getattr(op, kind, None) is not None)
    values = getattr(file.graph.ops[at], kind).copy()
    values[unit] *= 1.5
    layers = list(file.graph.ops)
    layers[at] = replace(layers[at], **{kind: values})
    wrong = replace(file, graph=replace(file.graph, ops=tuple(layers)))
    monkeypatch.setattr(module, "read_onnx", lambda source: wrong)
    return wrong


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-30, 1e-18, 1e-7, 1e-3, 1.0, 300.0, 1e6, 1e12, 1e20, 1e30])
@pytest.mark.parametrize("kind", ["high", "low", "offset"])
def test_a_constant_of_any_size_that_is_misread_is_noticed(kind, size, dtype, monkeypatch):
    values = float32(size * np.array([1.0, -1.0, 2.0, -0.5, 1.5, -3.0]))
    content = to_bytes(write_model(net(kind, values), dtype))
    CertifiedPredictor(content)
    kind = "bias" if kind == "offset" else kind
    wrong = misread(content, kind, RNG.integers(6), monkeypatch)
    with pytest.raises(ModelError, match="something other than"):
        CertifiedPredictor(content)
    with pytest.raises(ModelError, match="something other than"):
        Proof(wrong).check_reading()


def test_a_constant_beside_others_of_other_sizes_is_noticed(monkeypatch):
    """Within what the rounding errors, which the largest of them sets, leave to be seen."""
    values = 1e25 * np.array([1.0, 300.0, 2e4, 5.0, 40.0, 1e3])
    weight, last = np.eye(6), np.eye(6)
    layers = (
        dense("a", "input", weight),
        ops.Clip(output="b", inputs=("a",), shape=(6,), high=float32(values)),
        dense("c", "b", last),
    )
    graph = Graph(input="input", input_shape=(6,), ops=layers, output="c")
    content = to_bytes(write_model(graph, np.float32))
    for unit in range(6):
        with monkeypatch.context() as patch:
            misread(content, "high", unit, patch)
            with pytest.raises(ModelError, match="something other than"):
                CertifiedPredictor(content)
