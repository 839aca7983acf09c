"""Encodings: inputs as bodies of requests, and answers as arrays."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LENGTH = "Inference-Header-Content-Length"
JSON = {"Content-Type": "application/json"}
DTYPES = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "BOOL": "?"}

Array = np.ndarray[Any, Any]
Answers = dict[str, Array]


@dataclass(frozen=True)
class Wire:
    """Encoding of requests and answers; binary if numbers are sent as bytes.

    Attributes:
        write: function of (N, d) float32 inputs that returns headers and body of a request.
        read: function of headers and body that returns scores, and of ours label_index and certified_radius.
    """

    name: str
    binary: bool
    path: str
    write: Callable[[Array], tuple[dict[str, str], bytes]]
    read: Callable[[Mapping[str, str], bytes], Answers]


def write_rows(x: Array) -> tuple[dict[str, str], bytes]:
    """Return inputs as an object with rows."""
    return JSON, json.dumps({"inputs": x.tolist()}).encode()


def read_scores(headers: Mapping[str, str], body: bytes) -> Answers:
    """Return scores from rows, or from an object with rows."""
    answer = json.loads(body)
    return {"scores": np.array(answer["scores"] if isinstance(answer, dict) else answer)}


def read_predictions(headers: Mapping[str, str], body: bytes) -> Answers:
    """Return scores, label and radius from an answer of lipserve to predict."""
    rows, names = json.loads(body)["predictions"], ("scores", "label_index", "certified_radius")
    return {name: np.array([row[name] for row in rows]) for name in names}


def write_npy(x: Array) -> tuple[dict[str, str], bytes]:
    """Return inputs in the npy format."""
    buffer = io.BytesIO()
    np.save(buffer, x)
    return {"Content-Type": "application/x-npy"}, buffer.getvalue()


def write_v2_json(x: Array) -> tuple[dict[str, str], bytes]:
    """Return inputs as a flat tensor of the Open Inference Protocol in JSON."""
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    return JSON, json.dumps({"inputs": [tensor]}).encode()


def write_v2_binary(x: Array) -> tuple[dict[str, str], bytes]:
    """Return inputs as a binary tensor of the Open Inference Protocol, and ask for a binary answer."""
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": x.nbytes}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", LENGTH: str(len(header))}
    return headers, header + x.tobytes()


def read_v2(headers: Mapping[str, str], body: bytes) -> Answers:
    """Return every output with numbers, in JSON or bytes."""
    end = int(headers.get(LENGTH, len(body)))
    answers: Answers = {}
    for output in json.loads(body[:end])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        dtype = DTYPES.get(output["datatype"])
        if dtype is not None:
            data = output["data"] if size is None else np.frombuffer(body[end : end + size], dtype)
            answers[output["name"]] = np.array(data).reshape(output["shape"])
        end += size or 0
    return answers


ROWS = Wire("JSON", False, "/predict", write_rows, read_scores)
V2_JSON = Wire("v2 JSON", False, "/v2/models/model/infer", write_v2_json, read_v2)
V2_BINARY = Wire("v2 binary", True, "/v2/models/model/infer", write_v2_binary, read_v2)
PREDICT = Wire("JSON", False, "/v1/models/model/predict", write_rows, read_predictions)
PREDICT_NPY = Wire("npy", True, "/v1/models/model/predict", write_npy, read_predictions)
ECHO = Wire("JSON", False, "/", write_rows, lambda _, body: {"echo": np.array(json.loads(body)["inputs"])})
ECHO_NPY = Wire("npy", True, "/", write_npy, lambda headers, body: {"echo": np.load(io.BytesIO(body))})
