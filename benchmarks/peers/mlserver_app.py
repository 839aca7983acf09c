"""MLServer in one process (parallel workers would cost more still), with adaptive batching or not."""

import asyncio
import socket
import sys

import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    """Model with one tensor in and one out."""

    async def load(self) -> bool:
        """Load the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the model."""
        x = NumpyCodec.decode_input(payload.inputs[0])
        scores = self.session.run(None, {"input": x})[0]
        output = NumpyCodec.encode_output("scores", scores)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    """Serve the model."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        grpc_port = sock.getsockname()[1]
    server = MLServer(
        Settings(
            host="127.0.0.1", http_port=int(sys.argv[2]), grpc_port=grpc_port, metrics_endpoint=None,
            parallel_workers=0, load_models_at_startup=False,
        )
    )  # fmt: skip
    batching = {"max_batch_size": 64, "max_batch_time": 0.001} if "batched" in sys.argv else {}
    await server.start([ModelSettings(name="model", implementation=Runtime, **batching)])


if __name__ == "__main__":
    asyncio.run(main())
