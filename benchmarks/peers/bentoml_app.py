"""BentoML: one worker, batchable or not; the model's path in MODEL."""

import os
from typing import Annotated

import bentoml
import numpy as np
import onnxruntime
from bentoml.validators import DType

Rows = Annotated[np.ndarray, DType("float32")]


@bentoml.service(workers=1)
class Service:
    """Service that returns the scores of rows."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options)

    @bentoml.api(batchable="BATCHED" in os.environ, max_batch_size=256)
    def predict(self, inputs: Rows) -> Rows:
        """Run the model."""
        return self.session.run(None, {"input": inputs})[0]
