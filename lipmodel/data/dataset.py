"""A labelled data set in memory, validated when constructed."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipmodel.data.files import check_finite
from lipmodel.errors import DataError

HELD_OUT = 0.25  # share held out for evaluation where the data have no test part
SPLIT_SEED = 0  # the split belongs to the data: every seed of training sees the same parts
LARGEST_LABEL = 2**53  # float64 represents every integer up to here
MAX_CLASSES = 100_000  # of data without class names

SCALINGS = ("none", "common", "columns")
"""Divisors of the inputs in a network: none, one number, or one number per column."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled inputs.

    Attributes:
        name: of the data set, for records and titles.
        inputs: (N, d) float32.
        labels: (N,) int64, indices into ``classes``.
        classes: names of the classes.
        input_shape: shape of one input before it was flattened to d numbers.
        units: unit of a coordinate of an input.
        columns: names of the d coordinates; empty if unnamed.
        scaling: the member of ``SCALINGS`` that suits these inputs; only a default for training.

    Raises:
        DataError: there are no rows, inputs and labels differ in length, an input is not finite, or a
            label is out of range.
    """

    name: str
    inputs: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    units: str
    columns: tuple[str, ...] = ()
    scaling: str = "none"

    def __post_init__(self) -> None:
        if not len(self.inputs):
            raise DataError(f"{self.name} has no rows; at least one is required")
        if self.inputs.shape != (len(self.inputs), math.prod(self.input_shape)):
            raise DataError(
                f"{self.name}: inputs have shape {list(self.inputs.shape)}, not rows of shape "
                f"{list(self.input_shape)}"
            )
        if self.labels.shape != (len(self.inputs),):
            raise DataError(
                f"{self.name} has {len(self.inputs)} inputs and {self.labels.size} labels; "
                "the numbers must be equal"
            )
        check_finite(self.inputs, self.name)
        wrong = (self.labels < 0) | (self.labels >= len(self.classes))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{self.name}: label {self.labels[row]} of row {row} is out of range; "
                f"labels must be 0 to {len(self.classes) - 1}"
            )

    @property
    def digest(self) -> str:
        """The sha256 of the bytes of inputs and labels, in hexadecimal."""
        content = hashlib.sha256(np.ascontiguousarray(self.inputs, dtype="<f4").tobytes())
        content.update(np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        return content.hexdigest()

    def split(self, held_out: float = HELD_OUT, seed: int = SPLIT_SEED) -> tuple[Dataset, Dataset]:
        """Return (training part, held-out part), a random split stratified by class.

        Raises:
            DataError: a class has too few rows to be in both parts.
        """
        rng = np.random.default_rng(seed)
        chosen = np.zeros(len(self.labels), dtype=bool)
        for label in np.unique(self.labels):
            rows = rng.permutation(np.flatnonzero(self.labels == label))
            count = round(held_out * len(rows))
            if not 0 < count < len(rows):
                raise DataError(
                    f"{self.name}: class '{self.classes[label]}' has too few rows ({len(rows)}) to split"
                )
            chosen[rows[:count]] = True
        return self._rows(~chosen), self._rows(chosen)

    def _rows(self, chosen: NDArray[np.bool_]) -> Dataset:
        return replace(self, inputs=self.inputs[chosen], labels=self.labels[chosen])


def labelled(
    name: str,
    inputs: Any,
    labels: Any,
    classes: tuple[str, ...] | None,
    units: str,
    columns: tuple[str, ...] = (),
    scaling: str = "none",
) -> Dataset:
    """Return a data set of raw arrays; classes without names are named by their indices.

    Raises:
        DataError: see :class:`Dataset`; also labels that are not integers, or all equal.
    """
    indices = class_indices(name, labels)
    if len(np.unique(indices)) == 1:
        raise DataError(f"{name}: all labels are {indices.flat[0]}; at least two classes are required")
    inputs = np.asarray(inputs)
    flat = as_float32(inputs.reshape(len(inputs), math.prod(inputs.shape[1:])))
    if classes is None:
        largest = int(indices.max(initial=1))
        if largest >= MAX_CLASSES:  # before anything is allocated per class
            row = int(indices.argmax())
            raise DataError(
                f"{name}: label {largest} of row {row} is out of range; labels must be 0 to {MAX_CLASSES - 1}"
            )
        classes = tuple(map(str, range(largest + 1)))
    return Dataset(name, flat, indices, classes, tuple(inputs.shape[1:]), units, columns, scaling)


def class_indices(name: str, labels: Any, first_row: int = 0) -> NDArray[np.int64]:
    """Return labels as integers; errors count rows from ``first_row``.

    Raises:
        DataError: a label is not an integer.
    """
    indices = np.asarray(labels)
    accepted = "labels must be class indices 0, 1, …"
    if indices.dtype.kind not in "fiu":
        raise DataError(f"{name}: {accepted}")
    wrong = np.argwhere((indices != np.round(indices)) | (np.abs(indices) > LARGEST_LABEL))
    if len(wrong):
        raise DataError(
            f"{name}: {accepted}, not {indices[tuple(wrong[0])]} of row {first_row + wrong[0][0]}"
        )
    return indices.astype(np.int64)


def as_float32(inputs: NDArray[Any]) -> NDArray[np.float32]:
    """Return inputs rounded to float32; larger numbers become infinities, which are then refused as such."""
    with np.errstate(over="ignore"):
        return inputs.astype(np.float32)
