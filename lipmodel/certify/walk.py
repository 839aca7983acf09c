"""What a walk over an ONNX graph knows so far, and the checks that its operators are read with."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from lipmodel.certify import ops
from lipmodel.certify.folding import Constant
from lipmodel.certify.ops import Op, Shape
from lipmodel.certify.shapes import Symbols
from lipmodel.errors import FileFormatError, UnsupportedError

Float = type[np.float32] | type[np.float64]


@dataclass
class Node:
    """One ONNX node with its attributes as Python values."""

    proto: onnx.NodeProto
    label: str
    attributes: dict[str, Any]

    @property
    def op(self) -> str:
        """Its ONNX operator."""
        return self.proto.op_type

    def flag(self, name: str, default: int) -> bool:
        """An attribute that is 0 or 1; runtimes differ in what they make of other numbers."""
        value = self.attributes.get(name, default)
        if value not in (0, 1):
            raise self.refuse(f"{name} = {value}; 0 and 1 are accepted")
        return bool(value)

    def refuse(self, reason: str) -> UnsupportedError:
        """The error that refuses this node."""
        return UnsupportedError(reason, node=self.label, op=self.op)


class Walk:
    """One pass over the nodes, in file order.

    Attributes:
        batch: size of the batch axis where the file fixes it.
        portable: whether every constant so far is one that all runtimes agree on to the bit.
        constants: tensors known at load.
        symbols: integer vectors in which the size of the batch is left open; see ``shapes.py``.
        shapes: tensors that depend on the input, with their shapes per sample.
        dtypes: their floating-point formats.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.constants: dict[str, Constant] = {}
        self.symbols: dict[str, Symbols] = {}
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, Float] = {}
        self.batch: int | None = None
        self.portable = True
        self.ops: list[Op] = []
        self.operators: Counter[str] = Counter()
        self._fresh = 0

    def dynamic(self, node: Node, index: int = 0) -> tuple[str, Shape]:
        """Name and shape of an input that depends on the network's input.

        Raises:
            UnsupportedError: if that input is a constant or absent.
        """
        name = self.input(node, index)
        if name is None or name in self.constants:
            raise node.refuse(f"input {index} is a constant where the network's own tensor is accepted")
        return name, self.shapes[name]

    def input(self, node: Node, index: int) -> str | None:
        """Name of an input, or None where it is absent."""
        inputs = node.proto.input
        return inputs[index] if index < len(inputs) and inputs[index] else None

    def constant(self, node: Node, index: int) -> Constant | None:
        """A constant input, or None where it is absent.

        Raises:
            UnsupportedError: if it depends on the network's input.
        """
        name = self.input(node, index)
        if name is None:
            return None
        if name not in self.constants:
            raise node.refuse(f"input '{name}' depends on the network's input; a constant is accepted")
        return self.constants[name]

    def weights(self, node: Node, index: int, like: str) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        """A constant input of the same floating-point format as tensor ``like``, upcast exactly."""
        array = self.constant(node, index)
        if array is None:
            return None
        if array.dtype != np.dtype(self.dtypes[like]):
            raise node.refuse(
                f"constant input {index} is {array.dtype}, its fellow is {np.dtype(self.dtypes[like])}"
            )
        return array.astype(np.float64)

    def integers(self, node: Node, index: int, attribute: str) -> list[int] | None:
        """Integers given as an attribute (older opsets) or as a constant input (newer ones)."""
        if attribute in node.attributes:
            value = node.attributes[attribute]
            return [int(v) for v in value] if isinstance(value, list) else [int(value)]
        array = self.constant(node, index)
        if array is None:
            return None
        if not np.issubdtype(array.dtype, np.integer):
            raise node.refuse(f"input {index} is {array.dtype}; integers are accepted")
        return [int(v) for v in array.ravel()]

    def target_shape(self, node: Node) -> list[Any] | None:
        """The target of a Reshape: integers, with :data:`BATCH` where it names the size of the batch."""
        name = self.input(node, 1)
        if name in self.symbols:
            return list(self.symbols[str(name)].ravel())
        return self.integers(node, 1, "shape")

    def axis(self, node: Node, value: int, rank: int) -> int:
        """An ONNX axis of a tensor with ``rank`` axes (the batch among them), as an axis per sample."""
        axis = value + rank if value < 0 else value
        if not 0 <= axis < rank:
            raise node.refuse(f"axis {value} does not exist in a tensor of {rank} axes")
        if axis == 0:
            raise node.refuse("works along axis 0, the batch; samples must not mix")
        return axis - 1

    def per_sample(self, node: Node, array: Any, shape: Shape) -> Any:
        """A constant that broadcasts to ``shape`` and is the same for every sample of a batch."""
        if array.ndim > len(shape):
            if array.ndim != len(shape) + 1 or array.shape[0] != 1:
                raise node.refuse(
                    f"a constant of shape {list(array.shape)} treats the samples of a batch differently"
                )
            array = array[0]
        try:
            result = np.broadcast_shapes(array.shape, shape)
        except ValueError:
            result = ()
        if result != shape:
            raise node.refuse(
                f"a constant of shape {list(array.shape)} does not broadcast to {list(shape)} per sample"
            )
        return array

    def make(self, node: Node, op: type[Op], inputs: tuple[str, ...], shape: Shape, /, **fields: Any) -> str:
        """Adds an operation whose result gets a fresh name; for the steps before a node's last."""
        self._fresh += 1
        name = f"{node.proto.output[0]}#{self._fresh}"
        self._add(node, op, inputs, shape, name, fields)
        return name

    def finish(
        self,
        node: Node,
        op: type[Op],
        inputs: tuple[str, ...],
        shape: Shape,
        /,
        output: int = 0,
        **fields: Any,
    ) -> None:
        """Adds the operation that makes one of the node's outputs."""
        self._add(node, op, inputs, shape, node.proto.output[output], fields)

    def reshape(self, node: Node, x: str, shape: Shape) -> None:
        """Finishes a node with a reshape; refuses one that changes how many numbers a sample has."""
        if math.prod(shape) != math.prod(self.shapes[x]):
            raise node.refuse(
                f"reshapes {list(self.shapes[x])} per sample to {list(shape)}: samples would mix"
            )
        self.finish(node, ops.Reshape, (x,), shape)

    def _add(
        self,
        node: Node,
        op: type[Op],
        inputs: tuple[str, ...],
        shape: Shape,
        name: str,
        fields: dict[str, Any],
    ) -> None:
        formats = {self.dtypes[i] for i in inputs}
        if len(formats) != 1:
            raise node.refuse("mixes float32 and float64 inputs")
        self.define(name, shape, formats.pop())
        self.ops.append(op(output=name, inputs=inputs, shape=shape, node=node.label, **fields))

    def define(self, name: str, shape: Shape, dtype: Float) -> None:
        """Notes a tensor that depends on the input."""
        self._check_new(name)
        self.shapes[name], self.dtypes[name] = shape, dtype

    def define_constant(self, name: str, array: Constant) -> None:
        """Notes a tensor known at load."""
        self._check_new(name)
        self.constants[name] = array

    def define_symbols(self, name: str, vector: Symbols) -> None:
        """Notes an integer vector: a constant if nothing in it is left open."""
        if all(isinstance(value, int) for value in vector.ravel()):
            self.define_constant(name, vector.astype(np.int64))
        else:
            self._check_new(name)
            self.symbols[name] = vector

    def _check_new(self, name: str) -> None:
        if not name or name in self.shapes or name in self.constants or name in self.symbols:
            raise FileFormatError(f"the tensor '{name}' is made twice")
