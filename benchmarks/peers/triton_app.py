"""Triton by pytriton: Triton's own HTTP server and dynamic batching, the model in Python."""

import os
import socket
import sys
import sysconfig

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)


@batch
def infer(**inputs):
    """Run the model."""
    return session.run(None, inputs)


def tensor(of):
    """Return name and shape of an input or output, without the batch."""
    return Tensor(name=of.name, dtype=np.float32, shape=tuple(of.shape[1:]))


if __name__ == "__main__":
    # Triton runs a Python of its own: this one's library, or another's would meet this one's modules.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        grpc_port = sock.getsockname()[1]
    config = TritonConfig(
        http_address="127.0.0.1", http_port=int(sys.argv[2]), grpc_port=grpc_port, allow_metrics=False
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=infer,
            inputs=[tensor(session.get_inputs()[0])],
            outputs=[tensor(session.get_outputs()[0])],
            config=ModelConfig(max_batch_size=256),
        )
        triton.serve()
