"""Integer arithmetic on shapes, with the size of the batch left open.

Exporters that keep the batch free write Shape, Gather, Div, Concat and the like to make the target
of a Reshape. Such chains are followed on vectors whose entries are integers or :data:`BATCH`; what
comes out as integers alone is a constant like any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from lipmodel.certify.folding import Constant

Symbols = np.ndarray[Any, np.dtype[np.object_]]


class _Open:
    """An integer that the file leaves open."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


BATCH = _Open("batch")
"""The size of the batch."""
UNKNOWN = _Open("unknown")
"""Something computed from the size of the batch; of no use in a shape."""


def shape_vector(shape: tuple[int, ...], attributes: dict[str, Any]) -> Symbols:
    """What ONNX Shape gives of a tensor with that shape per sample."""
    vector = np.array([BATCH, *shape], dtype=object)
    return vector[attributes.get("start", 0) : attributes.get("end", len(vector))]


def fold_shape(op: str, inputs: list[Constant | Symbols | None], attributes: dict[str, Any]) -> Symbols:
    """What a node makes of such vectors.

    Raises:
        ValueError: it is not one of the operations that shapes are computed with.
    """
    x = np.asarray(inputs[0], dtype=object)
    rest = inputs[1:]
    match op:
        case "Identity":
            return x
        case "Cast" if attributes.get("to") in (TensorProto.INT64, TensorProto.INT32):
            return x
        case "Gather" if attributes.get("axis", 0) == 0:
            return np.asarray(x[_integers(rest[0])], dtype=object)
        case "Concat" if attributes.get("axis") == 0:
            return np.concatenate([np.asarray(part, dtype=object) for part in inputs])
        case "Unsqueeze" if x.ndim == 0:
            return x.reshape(1)
        case "Squeeze" if x.shape == (1,):
            return x.reshape(())
        case "Reshape":
            return x.reshape([int(d) for d in _integers(rest[0])])
        case "Slice" if len(rest) >= 2:
            starts, ends = _integers(rest[0]), _integers(rest[1])
            step = int(_integers(rest[3])[0]) if len(rest) > 3 and rest[3] is not None else 1
            return x[int(starts[0]) : int(ends[0]) : step]
        case "Add" | "Sub" | "Mul" | "Div":
            pairs = np.broadcast(x, np.asarray(rest[0], dtype=object))
            results = [_arithmetic(op, a, b) for a, b in pairs]
            return np.array(results, dtype=object).reshape(pairs.shape)
    raise ValueError("shapes are computed with Shape, Gather, Slice, Concat, Add, Sub, Mul, Div and the like")


def _integers(values: Constant | Symbols | None) -> Any:
    array = np.asarray(values)
    if array.dtype.kind != "i":
        raise ValueError("integers known at load are accepted here")
    return array


def _arithmetic(op: str, a: Any, b: Any) -> Any:
    if isinstance(a, _Open) or isinstance(b, _Open):
        neutral = (op in ("Mul", "Div") and b == 1) or (op in ("Add", "Sub") and b == 0)
        return a if neutral else UNKNOWN
    a, b = int(a), int(b)
    if op == "Div":
        quotient = abs(a) // abs(b)  # ONNX integer division truncates; b = 0 is the caller's ValueError
        return quotient if (a < 0) == (b < 0) else -quotient
    return {"Add": a + b, "Sub": a - b, "Mul": a * b}[op]
