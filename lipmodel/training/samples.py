"""Samples: a few held-out rows in a file beside the model, for people to look at and to begin from."""

from __future__ import annotations

import io

import numpy as np

from lipmodel.data.dataset import Dataset

MAX_NUMBERS = 100_000
"""In all rows together: less than half a megabyte."""


def sample_file(held_out: Dataset, count: int) -> bytes:
    """A ``.npz`` file of so many rows at random, or fewer where each is large; always the same ones.

    Arrays are ``inputs`` (N, *input_shape) and ``labels`` (N,): what ``lipmodel evaluate --data`` reads.
    """
    most = max(1, MAX_NUMBERS // held_out.inputs.shape[1])
    chosen = np.random.default_rng(0).permutation(len(held_out.labels))[: min(count, most)]
    inputs = held_out.inputs[chosen].reshape(-1, *held_out.input_shape)
    with io.BytesIO() as file:
        np.savez_compressed(file, inputs=inputs, labels=held_out.labels[chosen])
        return file.getvalue()
