"""State of a walk over an ONNX graph, and checks that the handlers of operators share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx

from lipmodel.errors import FileFormatError, UnsupportedError
from lipmodel.network import ops
from lipmodel.network.ops import Op
from lipmodel.network.reader.shapes import Constant, Symbols
from lipmodel.network.window import Shape

Float = type[np.float32] | type[np.float64]

MAX_AXES = 32
"""Maximum number of axes of a tensor."""
MAX_PARAMETERS = 2**14
"""Maximum number of integers in one parameter of a node (a shape, axes, sizes of parts)."""
MAX_SAMPLE, MAX_ALL_SAMPLES = 2**24, 2**28
"""Maximum numbers per sample in one tensor, and in all tensors together."""
MAX_NUMBERS, NUMBERS_PER_STORED = 2**26, 64
"""Maximum numbers made while reading (folded, upcast, listed), and the increase for each stored number."""
NUMBERS_PER_WEIGHT = 16
"""Numbers that one weight counts as: it is upcast, and its norms take longer than making it."""
MAX_WORK = 2**35
"""Maximum multiplications for folding constants: some seconds."""


@dataclass
class Node:
    """One ONNX node with its attributes as Python values."""

    proto: onnx.NodeProto
    label: str
    attributes: dict[str, Any]

    @property
    def op(self) -> str:
        """Return the node's ONNX operator."""
        return self.proto.op_type

    def flag(self, name: str, default: int) -> bool:
        """Return an attribute that is 0 or 1; runtimes read other numbers in different ways."""
        value = self.attributes.get(name, default)
        if value not in (0, 1):
            raise self.refuse(f"has {name} = {value}; 0 and 1 are accepted")
        return bool(value)

    def check_attributes(self, known: frozenset[str]) -> None:
        """Raise UnsupportedError for an attribute that the handler does not know."""
        if unknown := sorted(set(self.attributes) - known):
            raise self.refuse(f"has the unsupported attribute '{unknown[0]}'")

    def refuse(self, reason: str) -> UnsupportedError:
        """Return the error that refuses this node for a reason."""
        return UnsupportedError(reason, node=self.label, op=self.op)


Rule = TypeVar("Rule", bound=Callable[..., Any])


def registering(
    table: dict[str, tuple[Rule, frozenset[str]]], *op_types: str, attributes: tuple[str, ...] = ()
) -> Callable[[Rule], Rule]:
    """Register a rule for operators in a table, with the attributes that the rule reads."""

    def register(rule: Rule) -> Rule:
        table.update(dict.fromkeys(op_types, (rule, frozenset(attributes))))
        return rule

    return register


class Walk:
    """State of one pass over the nodes, in file order.

    Attributes:
        batch: size of the batch axis where the file fixes it.
        constants: tensors known at load, by name.
        stored: names of the constants that the file holds as they are.
        computed: names of the constants that depend on floating-point arithmetic, where runtimes may differ.
        sizes_computed: whether computed constants include integers, on which shapes may depend.
        symbols: integer arrays in which the size of the batch is left open; see ``shapes.py``.
        shapes: shape per sample of each tensor that depends on the input.
        dtypes: floating-point format of each tensor that depends on the input.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.constants: dict[str, Constant] = {}
        self.stored: set[str] = set()
        self.computed: set[str] = set()
        self.sizes_computed = False
        self.symbols: dict[str, Symbols] = {}
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, Float] = {}
        self.batch: int | None = None
        self.ops: list[Op] = []
        self._fresh = 0
        self._numbers = self._work = self._sampled = 0
        self._max_numbers = MAX_NUMBERS

    def spend(self, node: Node, numbers: int = 0, work: int = 0) -> None:
        """Count the numbers and multiplications that reading a node takes, before they are spent.

        Raises:
            UnsupportedError: a limit is exceeded.
        """
        self._numbers += numbers
        self._work += work
        if self._numbers > self._max_numbers:
            raise node.refuse(
                f"brings the numbers computed while reading the file to {self._numbers}; at most "
                f"{self._max_numbers} are accepted; store constants instead of computing them"
            )
        if self._work > MAX_WORK:
            raise node.refuse(
                f"brings the multiplications of constants to {self._work}; at most {MAX_WORK} are accepted; "
                "store constants instead of computing them"
            )

    def dynamic(self, node: Node, index: int = 0) -> tuple[str, Shape]:
        """Return the name and shape of an input that depends on the network's input.

        Raises:
            UnsupportedError: the input is a constant or absent.
        """
        name = self.input(node, index)
        if name is None or name in self.constants:
            raise node.refuse(f"input {index} is constant; expected a tensor that depends on the input")
        return name, self.shapes[name]

    def input(self, node: Node, index: int) -> str | None:
        """Return the name of an input, or None where it is absent."""
        inputs = node.proto.input
        return inputs[index] if index < len(inputs) and inputs[index] else None

    def made_of_constants(self, proto: onnx.NodeProto) -> bool:
        """Return whether no input of a node depends on the network's input."""
        return not any(name in self.shapes for name in proto.input)

    def known(self, name: str) -> Constant | Symbols | None:
        """Return a tensor that does not depend on the network's input, or None where it is absent."""
        return self.constants.get(name, self.symbols.get(name))

    def constant(self, node: Node, index: int) -> Constant | None:
        """Return a constant input, or None where it is absent.

        Raises:
            UnsupportedError: the input depends on the network's input.
        """
        name = self.input(node, index)
        if name is None:
            return None
        if name not in self.constants:
            raise node.refuse(f"input '{name}' depends on the network's input; expected a constant")
        return self.constants[name]

    def weights(self, node: Node, index: int, like: str) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        """Return a constant input, of the floating-point format of tensor ``like``, upcast exactly."""
        array = self.constant(node, index)
        if array is None:
            return None
        if array.dtype != np.dtype(self.dtypes[like]):
            raise node.refuse(
                f"constant input {index} is {array.dtype}; expected {np.dtype(self.dtypes[like])}, as the "
                "other operand"
            )
        self.spend(node, numbers=NUMBERS_PER_WEIGHT * array.size)
        return array.astype(np.float64)

    def integers(self, node: Node, index: int, attribute: str) -> list[int] | None:
        """Return integers given as an attribute (older opsets) or as a constant input (newer opsets)."""
        if attribute in node.attributes:
            value = node.attributes[attribute]
            return [int(v) for v in value] if isinstance(value, list) else [int(value)]
        array = self.constant(node, index)
        if array is None:
            return None
        if not np.issubdtype(array.dtype, np.integer) or array.size > MAX_PARAMETERS:
            raise node.refuse(
                f"input {index} holds {array.size} numbers of type {array.dtype}; expected at most "
                f"{MAX_PARAMETERS} integers"
            )
        return [int(v) for v in array.ravel()]

    def slices(self, node: Node, rank: int) -> list[tuple[int, slice]]:
        """Return the axes that a Slice of a tensor with ``rank`` axes cuts, and the slice of each.

        Python clamps starts and ends as ONNX does.
        """
        starts, ends = self.integers(node, 1, "starts"), self.integers(node, 2, "ends")
        if starts is None or ends is None:
            raise node.refuse("has starts or ends that are not constants")
        axes = self.integers(node, 3, "axes") or list(range(len(starts)))
        steps = self.integers(node, 4, "steps") or [1] * len(starts)
        if not len(starts) == len(ends) == len(axes) == len(steps):
            raise node.refuse(
                f"has {len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps; "
                "expected equally many"
            )
        if not all(0 < abs(step) < 2**31 for step in steps):
            raise node.refuse(f"has steps {steps[:MAX_AXES]}; expected int32 numbers other than 0")
        places = [axis + rank if axis < 0 else axis for axis in axes]
        if not ops.distinct(places) or not all(0 <= place < rank for place in places):
            raise node.refuse(f"has axes {axes[:MAX_AXES]}; expected distinct axes of a tensor of {rank}")
        selected = [slice(*ends_and_step) for ends_and_step in zip(starts, ends, steps, strict=True)]
        return list(zip(places, selected, strict=True))

    def parts(self, node: Node, length: int) -> list[int]:
        """Return the sizes of the parts that a Split makes of an axis of a length."""
        count = len(node.proto.output)
        declared = node.attributes.get("num_outputs", count)
        if declared != count:  # at fewer onnxruntime ends the process
            raise node.refuse(f"has {count} outputs but num_outputs = {declared}")
        sizes = self.integers(node, 1, "split")
        if sizes is None:
            step = -(-length // count)
            sizes = [min(step, length - i * step) for i in range(count)]
        if len(sizes) != count or sum(sizes) != length or min(sizes) < 1:
            raise node.refuse(
                f"has parts of sizes {sizes}; expected {count} positive sizes with the sum {length}"
            )
        return sizes

    def axis(self, node: Node, value: int, rank: int) -> int:
        """Return an ONNX axis of a tensor with ``rank`` axes, batch included, as an axis per sample."""
        axis = value + rank if value < 0 else value
        if not 0 <= axis < rank:
            raise node.refuse(f"has axis {value}, which does not exist in a tensor of {rank} axes")
        if axis == 0:
            raise node.refuse("works along axis 0, the batch, which would mix samples")
        return axis - 1

    def per_sample(self, node: Node, array: Any, shape: Shape) -> Any:
        """Return a constant without its batch axis.

        Raises:
            UnsupportedError: it differs between samples, or does not broadcast to ``shape``.
        """
        if array.ndim > len(shape):
            if array.ndim != len(shape) + 1 or array.shape[0] != 1:
                raise node.refuse(
                    f"has a constant of shape {list(array.shape)}, which differs between samples of a batch"
                )
            array = array[0]
        if any(d not in (1, n) for d, n in zip(array.shape[::-1], shape[::-1], strict=False)):
            raise node.refuse(
                f"has a constant of shape {list(array.shape)}, which does not broadcast to {list(shape)} per "
                "sample"
            )
        return array

    def add(
        self,
        node: Node,
        op: type[Op],
        inputs: tuple[str, ...],
        shape: Shape,
        /,
        output: int | None = 0,
        **fields: Any,
    ) -> str:
        """Add an operation that makes one of the node's outputs, or with None a step before the last.

        Returns:
            The name of the tensor that it makes, a fresh one for such a step.
        """
        size = math.prod(shape)
        self._sampled += size
        if len(shape) > MAX_AXES or size > MAX_SAMPLE or self._sampled > MAX_ALL_SAMPLES:
            raise node.refuse(
                f"makes a tensor of {len(shape)} axes and {size} numbers per sample ({self._sampled} in all "
                f"tensors so far); at most {MAX_AXES}, {MAX_SAMPLE} and {MAX_ALL_SAMPLES} are accepted"
            )
        formats = {self.dtypes[i] for i in inputs}
        if len(formats) != 1:
            raise node.refuse("mixes float32 and float64 inputs; expected one format")
        if output is None:
            self._fresh += 1
        name = f"{node.proto.output[0]}#{self._fresh}" if output is None else str(node.proto.output[output])
        self.define(name, shape, formats.pop())
        self.ops.append(op(output=name, inputs=inputs, shape=shape, node=node.label, **fields))
        return name

    def reshape(self, node: Node, x: str, shape: Shape) -> None:
        """Add a reshape that makes the node's output.

        Raises:
            UnsupportedError: it changes how many numbers a sample has.
        """
        if math.prod(shape) != math.prod(self.shapes[x]):
            raise node.refuse(
                f"reshapes {list(self.shapes[x])} per sample to {list(shape)}, which would mix samples"
            )
        self.add(node, ops.Reshape, (x,), shape)

    def define(self, name: str, shape: Shape, dtype: Float) -> None:
        """Record a tensor that depends on the input."""
        self._check_new(name)
        self.shapes[name], self.dtypes[name] = shape, dtype

    def define_constant(self, name: str, array: Constant, *, stored: bool = False) -> None:
        """Record a tensor known at load."""
        self._check_new(name)
        self.constants[name] = array
        if stored:
            self.stored.add(name)
            self._max_numbers += NUMBERS_PER_STORED * array.size

    def define_symbols(self, name: str, vector: Symbols) -> None:
        """Record an integer array, as a constant if no entry is open."""
        if all(isinstance(value, int) for value in vector.ravel()):
            self.define_constant(name, vector.astype(np.int64))
        else:
            self._check_new(name)
            self.symbols[name] = vector

    def _check_new(self, name: str) -> None:
        if not name or name in self.shapes or name in self.constants or name in self.symbols:
            raise FileFormatError(f"the tensor '{name}' is defined twice")
