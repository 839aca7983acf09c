"""A labelled data set in memory, checked when it is made."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipmodel.data.files import check_finite
from lipmodel.errors import DataError

HELD_OUT = 0.25  # share kept for evaluation where the data come in one part
SPLIT_SEED = 0  # the split belongs to the data: another seed of training sees the same parts
LARGEST_LABEL = 2**53  # up to here float64 holds every whole number
MAX_CLASSES = 100_000  # of data whose classes have no names

SCALINGS = ("none", "common", "columns")
"""What a network may divide inputs by first: nothing, one number, or one number a column."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled inputs.

    Attributes:
        name: of the data set, for records and titles.
        inputs: (N, d) float32.
        labels: (N,) int64, indices into ``classes``.
        classes: names of the classes.
        input_shape: shape of one input before it was flattened to d numbers.
        units: what a coordinate of an input measures.
        columns: names of the d numbers; empty where they have none.
        scaling: of ``SCALINGS``, the one that suits these inputs; advice for a training, no more.

    Raises:
        DataError: no rows, rows and labels that do not match, a number that is not finite, a label
            out of range.
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
            raise DataError(f"{self.name} has no rows; at least one is needed")
        if self.inputs.shape != (len(self.inputs), math.prod(self.input_shape)):
            raise DataError(
                f"{self.name}: inputs of shape {list(self.inputs.shape)} are not rows of {self.input_shape}"
            )
        if self.labels.shape != (len(self.inputs),):
            raise DataError(
                f"{self.name} has {len(self.inputs)} inputs and {self.labels.size} labels; one each is needed"
            )
        check_finite(self.inputs, self.name)
        wrong = (self.labels < 0) | (self.labels >= len(self.classes))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{self.name}: label {self.labels[row]} of row {row} is out of range; "
                f"0 to {len(self.classes) - 1} are accepted"
            )

    @property
    def digest(self) -> str:
        """sha256 over the bytes of inputs and labels, in hexadecimal."""
        content = hashlib.sha256(np.ascontiguousarray(self.inputs, dtype="<f4").tobytes())
        content.update(np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        return content.hexdigest()

    def split(self, held_out: float = HELD_OUT, seed: int = SPLIT_SEED) -> tuple[Dataset, Dataset]:
        """(the rest, the held-out share), at random, each class in proportion.

        Raises:
            DataError: a class is too small to be on both sides.
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
    """A data set from raw arrays; classes are named by their indices where no names are given.

    Raises:
        DataError: see :class:`Dataset`; also labels that are no whole numbers, or all the same.
    """
    indices = class_indices(name, labels)
    if len(np.unique(indices)) == 1:
        raise DataError(f"{name}: all labels are {indices.flat[0]}; at least two classes are needed")
    inputs = np.asarray(inputs)
    flat = as_float32(inputs.reshape(len(inputs), math.prod(inputs.shape[1:])))
    if classes is None:
        largest = int(indices.max(initial=1))
        if largest >= MAX_CLASSES:  # before anything is made for each class
            row = int(indices.argmax())
            raise DataError(
                f"{name}: label {largest} of row {row} is out of range; 0 to {MAX_CLASSES - 1} are accepted"
            )
        classes = tuple(map(str, range(largest + 1)))
    return Dataset(name, flat, indices, classes, tuple(inputs.shape[1:]), units, columns, scaling)


def class_indices(name: str, labels: Any, first_row: int = 0) -> NDArray[np.int64]:
    """Labels as whole numbers; errors count rows from ``first_row``.

    Raises:
        DataError: they are none.
    """
    indices = np.asarray(labels)
    accepted = "labels are not whole numbers; class indices 0, 1, … are accepted"
    if indices.dtype.kind not in "fiu":
        raise DataError(f"{name}: {accepted}")
    wrong = np.argwhere((indices != np.round(indices)) | (np.abs(indices) > LARGEST_LABEL))
    if len(wrong):
        raise DataError(
            f"{name}: {accepted}, not {indices[tuple(wrong[0])]} of row {first_row + wrong[0][0]}"
        )
    return indices.astype(np.int64)


def as_float32(inputs: NDArray[Any]) -> NDArray[np.float32]:
    """Rounded to float32; what is beyond it becomes an infinity, which is then refused as one."""
    with np.errstate(over="ignore"):
        return inputs.astype(np.float32)
