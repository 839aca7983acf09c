"""Symbolic integer arithmetic on shapes, with the size of the batch left open.

Exporters that keep the batch free write Shape, Gather, Div, Concat and the like to make the target
of a Reshape. Such chains are followed on arrays whose entries are Python integers or :data:`BATCH`; a result
of integers alone is a constant like any other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

Constant = np.ndarray[Any, Any]
Symbols = np.ndarray[Any, np.dtype[np.object_]]


class Open:
    """An integer that the file leaves open."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


BATCH = Open("batch")
"""The size of the batch."""
UNKNOWN = Open("unknown")
"""A number computed from the size of the batch; of no use in a shape."""

Integer = int | Open

INTEGERS: dict[str, Callable[[int, int], int]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.floordiv,
    "Max": max,
    "Min": min,
}
"""Integer arithmetic of ONNX, where :func:`compute` allows it."""
NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}
"""Neutral second operand of each operator."""


def shape_vector(shape: tuple[Integer, ...], attributes: dict[str, Any]) -> Symbols:
    """Return the output of ONNX Shape for a whole shape.

    Raises:
        ValueError: it starts or ends before the first axis, which runtimes read in different ways.
    """
    vector = np.array(shape, dtype=object)
    start, end = attributes.get("start", 0), attributes.get("end", len(vector))
    if min(start, end) < -len(vector):
        raise ValueError(f"start {start} or end {end} lies before the first of {len(vector)} axes")
    return vector[start:end]


def compute(op: str, a: Integer, b: Integer, limits: tuple[int, int]) -> Integer:
    """Return ``a op b`` where every runtime computes the same.

    Args:
        op: operator of :data:`INTEGERS`.
        a: first operand.
        b: second operand.
        limits: least and largest integer of the operands' type.

    Raises:
        ValueError: a divisor that is not a positive integer (a runtime may end the process), a quotient
            that is rounded (up or down, depending on the runtime) or a result outside the limits (which
            wraps in some runtimes).
    """
    if op == "Div" and not (isinstance(b, int) and b >= 1):
        raise ValueError(f"divides {a} by {b}; positive divisors known at load are accepted")
    if isinstance(a, Open) or isinstance(b, Open):
        return a if NEUTRAL.get(op) == b else UNKNOWN
    result = INTEGERS[op](a, b)
    if op == "Div" and a < 0 and result * b != a:
        raise ValueError(f"rounds the negative quotient {a} / {b}; runtimes do so in different directions")
    if not limits[0] <= result <= limits[1]:
        raise ValueError(f"{op} of {a} and {b} leaves the range of its type, {limits[0]} to {limits[1]}")
    return result
