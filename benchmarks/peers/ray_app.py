"""Ray Serve: one replica, with its batching or not."""

import sys
import time

import numpy as np
import onnxruntime
import ray
from ray import serve

MODEL, PORT = sys.argv[1], int(sys.argv[2])


class Scorer:
    """The model."""

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)

    def run(self, x):
        """Return the scores of rows."""
        return self.session.run(None, {"input": x})[0]


@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Plain(Scorer):
    """Replica that runs the model for each request."""

    async def __call__(self, request):
        """Answer one request."""
        x = np.array((await request.json())["inputs"], dtype=np.float32)
        return {"scores": self.run(x).tolist()}


@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Batched(Scorer):
    """Replica that runs the model for several requests at once."""

    @serve.batch(max_batch_size=64)
    async def run_batch(self, inputs):
        """Return the scores of several requests."""
        ends = np.cumsum([len(x) for x in inputs])[:-1]
        return np.split(self.run(np.concatenate(inputs)), ends)

    async def __call__(self, request):
        """Answer one request."""
        x = np.array((await request.json())["inputs"], dtype=np.float32)
        return {"scores": (await self.run_batch(x)).tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run((Batched if "batched" in sys.argv else Plain).bind(MODEL), route_prefix="/predict")
    while True:
        time.sleep(60)
