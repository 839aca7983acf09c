"""Runs a graph with onnxruntime, under the assumptions of the certificate.

The program run is written from the analysed graph itself, all optimisations are off (even the basic
ones fuse operations by changing weights), and the CPU is the only provider: its kernels sum
products in some order, and do nothing faster and less exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort

from lipmodel.certify.onnx_writer import to_bytes, write_model
from lipmodel.certify.ops import Graph
from lipmodel.norms import Array

Float = type[np.float32] | type[np.float64]


def open_session(model: bytes, threads: int = 1) -> ort.InferenceSession:
    """A session that computes what the file says, with that many threads an operator."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what goes wrong is raised; the log would only repeat it
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Execution:
    """Scores of a graph, computed in float32 or float64."""

    def __init__(self, graph: Graph, dtype: Float, threads: int = 1) -> None:
        self.graph, self.dtype = graph, dtype
        self._session: Any = open_session(to_bytes(write_model(graph, dtype)), threads)

    def scores(self, inputs: np.ndarray[Any, Any]) -> Array:
        """(N, K) scores, as float64, of (N, d) or (N, *input_shape) inputs."""
        x = np.ascontiguousarray(inputs, dtype=self.dtype).reshape(-1, *self.graph.input_shape)
        (result,) = self._session.run([self.graph.output], {self.graph.input: x})
        return np.asarray(result, dtype=np.float64)
