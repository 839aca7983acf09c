"""onnxruntime, set up as the certificate assumes.

All optimisations are off (even the basic ones fuse operations by changing weights), and the CPU is
the only provider: its kernels sum products in some order, and do nothing faster and less exact.

From 1.29 on, its official builds send telemetry to their makers and keep an identifier in the user's cache
folder, unless told not to before they are first imported; so nothing else here imports it.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

RUNTIME_VERSION: str = ort.__version__


def open_session(model: bytes, threads: int = 1) -> ort.InferenceSession:
    """A session that computes what the file says, with that many threads an operator."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what goes wrong is raised; the log would only repeat it
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
