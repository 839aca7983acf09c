"""Scaling of inputs inside the network, so that radii stay in the units of the data.

A network f trained on x / s is exported as  g(x) = m · f(x / s),  m = min s.  The Lipschitz constant of g is
at most that of f: x ↦ x / s is at most 1/m-Lipschitz in every l_p norm, and the factor m cancels this. All
scales are powers of two, so no operation here rounds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipmodel.data.dataset import Dataset
from lipmodel.network import ops
from lipmodel.network.ops import Graph

Scale = NDArray[np.float32]
"""(d,): the divisor of each coordinate, a power of two."""

MIN_SHARE = 0.25  # lower limit on a column's spread, relative to the median spread
MAX_EXPONENT = 60  # of a scale: keeps products of scales and weights within float32


def find_scale(data: Dataset, scaling: str) -> Scale:
    """Return the scale of each coordinate by a recipe's ``scaling``, from the training part.

    "columns": the power of two nearest each column's standard deviation, but at least a quarter of the
    median deviation (a nearly constant column would otherwise determine every radius), and 1 for columns of
    0 and 1. "common": one scale for all, from the root mean square of the deviations. "none": 1.
    """
    spread = data.inputs.std(axis=0, dtype=np.float64)
    if scaling == "none" or not spread.any():
        return np.ones(len(spread), dtype=np.float32)
    if scaling == "common":
        spread[:] = np.sqrt(np.square(spread).mean())
    else:
        median = np.median(spread[spread > 0])
        spread = np.where(spread > 0, np.maximum(spread, MIN_SHARE * median), median)
        spread[((data.inputs == 0) | (data.inputs == 1)).all(axis=0)] = 1.0
    exponent = np.clip(np.round(np.log2(spread)), -MAX_EXPONENT, MAX_EXPONENT)
    return np.asarray(np.exp2(exponent), dtype=np.float32)


def in_units_of_the_data(graph: Graph, scale: Scale) -> Graph:
    """Return the graph of g from the graph of f; unchanged if all scales are 1."""
    if (scale == 1).all():
        return graph
    factor = (1.0 / scale.astype(np.float64)).reshape(graph.input_shape)
    divide = ops.Scale(output="scaled_input", inputs=(graph.input,), shape=graph.input_shape, factor=factor)
    rest = [
        replace(op, inputs=tuple(divide.output if name == graph.input else name for name in op.inputs))
        for op in graph.ops
    ]
    return _times(replace(graph, ops=(divide, *rest)), float(scale.min()))


def _times(graph: Graph, factor: float) -> Graph:
    """Return the graph with its scores multiplied by a positive factor."""
    made = {op.output: op for op in graph.ops}
    last = made[graph.output]
    while isinstance(last, ops.ReduceExtremum | ops.Reshape):  # commute with a positive factor
        last = made[last.inputs[0]]
    if isinstance(last, ops.Dense) and len(graph.consumers()[last.output]) <= 1:
        bias = None if last.bias is None else last.bias * factor
        scaled_dense = replace(last, weight=last.weight * factor, bias=bias)
        return replace(graph, ops=tuple(scaled_dense if op is last else op for op in graph.ops))
    shape = graph.output_shape
    multiply = ops.Scale(
        output="scaled_scores", inputs=(graph.output,), shape=shape, factor=np.full(shape, factor)
    )
    return replace(graph, ops=(*graph.ops, multiply), output=multiply.output)


class Times(nn.Module):
    """y = x * factor, entry by entry; the factor is (d,) or a scalar."""

    factor: Tensor

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        """Return x * factor; shape (…, d)."""
        return x * self.factor


def scaled(network: nn.Module, scale: Scale) -> nn.Sequential:
    """Return the module of g from the module of f."""
    factor = torch.from_numpy(scale)
    return nn.Sequential(Times(1.0 / factor), network, Times(factor.min()))
