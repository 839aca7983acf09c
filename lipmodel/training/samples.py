"""Sample files: a few held-out rows beside the model, as examples of its inputs."""

from __future__ import annotations

import io

import numpy as np

from lipmodel.data.dataset import Dataset

MAX_NUMBERS = 100_000
"""Limit on the numbers in a sample file: less than half a megabyte."""


def sample_file(held_out: Dataset, count: int) -> bytes:
    """Return a ``.npz`` file of ``count`` random rows, fewer if rows are large; equal data give equal files.

    Arrays are ``inputs`` (N, *input_shape) and ``labels`` (N,), the format of ``lipmodel evaluate --data``.
    """
    most = max(1, MAX_NUMBERS // held_out.inputs.shape[1])
    chosen = np.random.default_rng(0).permutation(len(held_out.labels))[: min(count, most)]
    inputs = held_out.inputs[chosen].reshape(-1, *held_out.input_shape)
    with io.BytesIO() as file:
        np.savez_compressed(file, inputs=inputs, labels=held_out.labels[chosen])
        return file.getvalue()
