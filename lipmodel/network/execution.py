"""Evaluation of a graph with onnxruntime, by a program written from the analysed graph itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from lipmodel.network.ops import Graph
from lipmodel.network.session import open_session
from lipmodel.network.writer import to_bytes, write_model
from lipmodel.norms import Array

Float = type[np.float32] | type[np.float64]


class Execution:
    """A program that computes the output of a graph in float32 or float64."""

    def __init__(self, graph: Graph, dtype: Float, threads: int = 1) -> None:
        self.graph, self.dtype = graph, dtype
        self._session: Any = open_session(to_bytes(write_model(graph, dtype)), threads)

    def scores(self, inputs: np.ndarray[Any, Any]) -> Array:
        """Return the scores (N, K), as float64, of inputs (N, d) or (N, *input_shape)."""
        x = np.ascontiguousarray(inputs, dtype=self.dtype).reshape(-1, *self.graph.input_shape)
        (result,) = self._session.run([self.graph.output], {self.graph.input: x})
        return np.asarray(result, dtype=np.float64)


def as_evaluated(inputs: Array, dtype: Float) -> Array:
    """Return float64 inputs as an evaluation in that format reads them: float32 rounds them."""
    return inputs if dtype is np.float64 else inputs.astype(np.float32).astype(np.float64)
