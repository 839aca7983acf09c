"""FastAPI as first written: lists checked by pydantic, a plain function, run in its thread pool."""

import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
app = FastAPI()


class Request(BaseModel):
    """Rows of numbers."""

    inputs: list[list[float]]


class Answer(BaseModel):
    """Their scores."""

    scores: list[list[float]]


@app.post("/predict")
def predict(request: Request) -> Answer:
    """Run the model."""
    x = np.array(request.inputs, dtype=np.float32)
    return Answer(scores=session.run(None, {"input": x})[0].tolist())


uvicorn.run(app, port=int(sys.argv[2]), access_log=False, log_level="warning")
