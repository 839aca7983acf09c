"""Samples of a model: labelled inputs in a file beside it, for people to view and to start from.

Samples are only displayed: no bound, radius or verdict depends on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipmodel.data.files import read_npz
from lipmodel.errors import DataError, ModelError
from lipmodel.network.metadata import LARGEST_INPUT
from service.npz import check_npz

MAX_SAMPLES = 2000
MAX_BYTES = 8 * 2**20
"""Largest size of the arrays, which stay in memory."""


@dataclass(frozen=True, eq=False)
class Samples:
    """N labelled inputs.

    Attributes:
        inputs: (N, d) float32, all finite.
        labels: (N,) indices of classes, 0 or more.
    """

    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]

    def fit(self, size: int, classes: int) -> bool:
        """Return whether the samples suit a model with inputs of this size and this number of classes."""
        return self.inputs.shape[1] == size and bool((self.labels < classes).all())


def read_samples(path: Path) -> Samples:
    """Return the samples in a ``.npz`` file with the arrays ``inputs`` (N, …) and ``labels`` (N,).

    Raises:
        ModelError: the file cannot be read, or its arrays are not accepted or too large.
    """
    try:
        check_npz(path, MAX_BYTES)
        inputs, labels = map(np.asarray, read_npz(path, ("inputs", "x"), ("labels", "y")))
    except DataError as error:
        raise ModelError(f"its samples are not accepted: {error}".replace(f"{path.parent}/", "")) from error
    except Exception as error:  # the readers raise exceptions of many kinds on damaged files
        raise ModelError(f"its samples cannot be read: {str(error)[:200] or type(error).__name__}") from error
    if reason := _fault(inputs, labels):
        raise ModelError(f"its samples are not accepted: {reason}")
    flat = inputs.reshape(len(inputs), math.prod(inputs.shape[1:])).astype(np.float32)
    return Samples(flat, labels.astype(np.int64))


def _fault(inputs: NDArray[Any], labels: NDArray[Any]) -> str | None:
    """Return the reason why arrays are not accepted as samples, or None."""
    if inputs.ndim < 2 or labels.shape != (len(inputs),):
        shapes = f"inputs {list(inputs.shape)} and labels {list(labels.shape)}"
        return f"{shapes}; [rows, …] and [rows] are accepted"
    if not 0 < len(inputs) <= MAX_SAMPLES:
        return f"{len(inputs)} rows; 1 to {MAX_SAMPLES} are accepted"
    if not (np.abs(inputs) <= LARGEST_INPUT).all():  # NaN compares false
        return "a number that is not finite within float32"
    if labels.dtype.kind not in "iu" or (labels.astype(np.int64) < 0).any():
        return "labels that are not class indices 0, 1, …"
    return None
