"""LitServe: one process for HTTP, one for the model."""

import sys

import litserve
import numpy as np
import onnxruntime


class Api(litserve.LitAPI):
    """Model that returns the scores of rows."""

    def setup(self, device):
        """Load the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options)

    def decode_request(self, request):
        """Return rows as an array."""
        return np.array(request["inputs"], dtype=np.float32)

    def batch(self, inputs):
        """Join the rows of requests."""
        self.ends = np.cumsum([len(x) for x in inputs])[:-1]
        return np.concatenate(inputs)

    def predict(self, x):
        """Run the model."""
        return self.session.run(None, {"input": x})[0]

    def unbatch(self, output):
        """Return the scores of each request."""
        return np.split(output, self.ends)

    def encode_response(self, output):
        """Return scores as rows."""
        return {"scores": output.tolist()}


if __name__ == "__main__":
    api = Api(max_batch_size=64 if "batched" in sys.argv else 1)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False,
        log_level="warning", access_log=False,
    )  # fmt: skip
