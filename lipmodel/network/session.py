"""Sessions of onnxruntime, configured as the certificate assumes.

All optimisations are off (even the basic ones fuse operations by changing weights), and the CPU is
the only provider: its kernels sum products in some order, and do nothing faster and less exact.

From onnxruntime 1.29 on, official builds send telemetry and keep an identifier in the user's cache folder
unless an environment variable disables that before the first import. So no other module imports onnxruntime.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

RUNTIME_VERSION: str = ort.__version__


def open_session(model: bytes, threads: int = 1) -> ort.InferenceSession:
    """Return a session that evaluates a model without optimisations.

    Args:
        model: ONNX file as bytes.
        threads: threads per operator.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # errors are raised; the log would only repeat them
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
