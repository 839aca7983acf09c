"""The weights that a file computes from others, taken from a run of the file itself."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx

from lipmodel.network.reader.read import OnnxFile, without_dead
from lipmodel.network.session import open_session


def digest_folded(file: OnnxFile) -> str | None:
    """Return the digest that names these weights in a certificate; None where the file computes none.

    The reader computes them one by one (``network/reader/constants.py``). Here onnxruntime runs the whole
    file, and is asked for them as it is for the scores.
    """
    if not file.folded:
        return None
    model = onnx.load_model_from_string(without_dead(file.content, file.output))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in file.folded)
    session = open_session(model.SerializeToString())
    (given,) = session.get_inputs()
    batch = given.shape[0] if isinstance(given.shape[0], int) else 1
    zeros = np.zeros((batch, *file.graph.input_shape), file.dtype)
    arrays = session.run(list(file.folded), {given.name: zeros})
    digest = hashlib.sha256()
    for name, array in zip(file.folded, arrays, strict=True):
        header = json.dumps([name, array.dtype.name, list(array.shape)])
        unsigned = np.where(array == 0, array.dtype.type(0), array)
        digest.update(header.encode() + b"\n" + unsigned.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
