"""Data sets: two moons and digits, MNIST-like IDX files, arrays and tables of your own.

Inputs are in the units in which a certified radius is to be read; a network's own normalisation is
part of the network. Nothing is ever downloaded. Everything unusable raises a
:class:`~lipmodel.errors.DataError` of one line that says what to do about it.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipmodel.data_files import (
    check_finite,
    numbers,
    read_csv,
    read_idx,
    read_npy,
    read_npz,
    read_parquet,
    require_file,
)
from lipmodel.errors import DataError, MissingExtraError

Array = NDArray[np.float64]

HELD_OUT = 0.25  # share of two moons and digits kept for evaluation
SPLIT_SEED = 0  # the split belongs to the data: another seed of training sees the same parts


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


def two_moons(samples: int = 4000, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Two interleaving half circles of radius 1 in the plane, with Gaussian noise (scikit-learn).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    inputs, labels = _sklearn_datasets().make_moons(n_samples=samples, noise=noise, random_state=seed)
    return _labelled("two-moons", inputs, labels, ("upper", "lower"), "the moons' radius is 1")


def digits() -> Dataset:
    """1,797 handwritten digits of 8×8 pixels (scikit-learn), each pixel in [0, 1] (grey level / 16).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    inputs, labels = _sklearn_datasets().load_digits(return_X_y=True)
    inputs = np.asarray(inputs, dtype=np.float64).reshape(-1, 8, 8) / 16.0
    return _labelled("digits", inputs, labels, tuple("0123456789"), "grey level / 16, in [0, 1]")


def mnist(data_dir: Path) -> tuple[Dataset, Dataset]:
    """(train, test) from the four IDX files of MNIST or of a set of its form, plain or ``.gz``.

    Pixels are divided by 255, so inputs are in [0, 1].

    Raises:
        DataError: the folder or a file is missing, or a file is not what its name says.
    """
    return _idx_part(data_dir, "train"), _idx_part(data_dir, "t10k")


PARTS: dict[str, Callable[[], tuple[Dataset, Dataset]]] = {
    "two-moons": lambda: two_moons().split(),
    "digits": lambda: digits().split(),
}
"""Data sets that need no files: name to (training part, held-out part)."""


def load_parts(name: str, data_dir: Path | None = None) -> tuple[Dataset, Dataset]:
    """(training part, held-out part) of a data set by name: two-moons, digits, or mnist from a folder.

    Raises:
        DataError: unknown name, mnist without its folder, or unusable files.
    """
    if name in PARTS:
        return PARTS[name]()
    if name != "mnist":
        raise DataError(f"unknown data set '{name}'; {', '.join(PARTS)} and mnist are accepted")
    if data_dir is None:
        raise DataError("mnist needs the folder of its IDX files (--data-dir); nothing is downloaded")
    return mnist(data_dir)


def load_labelled(source: str | Path) -> Dataset:
    """Labelled data for evaluation.

    Args:
        source: "two-moons" or "digits" (their held-out part); a folder of IDX files (its test part);
            a ``.npz`` with arrays inputs (or x) and labels (or y); a ``.csv``, with or without a header
            line, or a ``.parquet``, whose last column is the label. Labels are class indices 0, 1, …

    Raises:
        DataError: see the module.
    """
    if str(source) in PARTS:
        return PARTS[str(source)]()[1]
    path = Path(source)
    if path.is_dir():
        return _idx_part(path, "t10k")
    require_file(path, f"a .npz, .csv or .parquet file, a folder of IDX files, or one of {', '.join(PARTS)}")
    if path.suffix == ".npz":
        inputs, labels = read_npz(path, ("inputs", "x"), ("labels", "y"))
    elif path.suffix in (".csv", ".parquet"):
        table = read_csv(path) if path.suffix == ".csv" else numbers(read_parquet(path), str(path))
        if table.shape[1] < 2:
            raise DataError(f"{path} has one column; inputs and, last, a label are needed")
        inputs, labels = table[:, :-1], table[:, -1]
    else:
        raise DataError(
            f"{path} has an unknown ending; .npz, .csv, .parquet and folders of IDX files are accepted"
        )
    return _labelled(str(path.name), numbers(inputs, str(path)), labels, None, "as in the file")


def load_inputs(path: Path) -> Array:
    """Inputs without labels, (N, d) float64, from ``.npy``, ``.csv`` (header or not) or ``.parquet``.

    Raises:
        DataError: see the module; also where a ``.parquet`` is given and pyarrow is not installed.
    """
    path = Path(path)
    require_file(path, "a .npy, .csv or .parquet file")
    if path.suffix == ".npy":
        raw = read_npy(path)
    elif path.suffix == ".csv":
        raw = read_csv(path)
    elif path.suffix == ".parquet":
        raw = read_parquet(path)
    else:
        raise DataError(f"{path} has an unknown ending; .npy, .csv and .parquet are accepted")
    inputs = numbers(raw, str(path))
    if not len(inputs):
        raise DataError(f"{path} has no rows; at least one is needed")
    check_finite(inputs, str(path))
    return inputs.reshape(len(inputs), -1)


def _idx_part(folder: Path, part: str) -> Dataset:
    """One part ("train" or "t10k") of a folder in the layout of MNIST."""
    images = read_idx(folder, f"{part}-images-idx3-ubyte", dimensions=3)
    labels = read_idx(folder, f"{part}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(labels):
        raise DataError(
            f"{folder}: the {part} files hold {len(images)} images and {len(labels)} labels; "
            "one each is needed"
        )
    if len(labels) and labels.max() > 9:
        raise DataError(
            f"{folder}/{part}-labels-idx1-ubyte: label {labels.max()} is out of range; 0 to 9 are accepted"
        )
    pixels = images.astype(np.float32) / np.float32(255)
    return _labelled(folder.name, pixels, labels, tuple("0123456789"), "grey level / 255, in [0, 1]")


def _labelled(name: str, inputs: Any, labels: Any, classes: tuple[str, ...] | None, units: str) -> Dataset:
    """A data set from raw arrays; classes are named by their indices where no names are given."""
    indices = np.asarray(labels)
    if indices.dtype.kind not in "fiu" or not np.array_equal(indices, np.round(indices)):
        raise DataError(f"{name}: labels are not whole numbers; class indices 0, 1, … are accepted")
    indices = indices.astype(np.int64)
    if len(np.unique(indices)) == 1:
        raise DataError(f"{name}: all labels are {indices.flat[0]}; at least two classes are needed")
    inputs = np.asarray(inputs)
    with np.errstate(over="ignore"):  # beyond float32 is an infinity, and refused as one
        flat = inputs.reshape(len(inputs), math.prod(inputs.shape[1:])).astype(np.float32)
    if classes is None:
        classes = tuple(str(i) for i in range(max(2, int(indices.max(initial=0)) + 1)))
    return Dataset(name, flat, indices, classes, tuple(inputs.shape[1:]), units)


def _sklearn_datasets() -> Any:
    try:
        return importlib.import_module("sklearn.datasets")
    except ModuleNotFoundError:
        raise MissingExtraError("the data sets two-moons and digits", "train") from None
