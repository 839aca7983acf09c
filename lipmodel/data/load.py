"""Load data sets by name, or from your own files.

Inputs keep the units in which a certified radius is read; normalisation is part of the network. Nothing is
ever downloaded. Unusable data raise a :class:`~lipmodel.errors.DataError` of one line that names the remedy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipmodel.data import files
from lipmodel.data.cifar import cifar10, find_batches
from lipmodel.data.dataset import Dataset, labelled
from lipmodel.data.tabular import adult, breast_cancer, sklearn_datasets, spambase
from lipmodel.errors import DataError

Parts = tuple[Dataset, Dataset]

DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
IDX_UNITS = "grey level / 255, in [0, 1]"
FILES = (".npz", ".csv", ".parquet")


def two_moons(samples: int = 4000, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Return two interleaving half circles of radius 1 in the plane, with Gaussian noise (scikit-learn).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    inputs, labels = sklearn_datasets().make_moons(n_samples=samples, noise=noise, random_state=seed)
    return labelled("two-moons", inputs, labels, ("upper", "lower"), "the moons' radius is 1")


def digits() -> Dataset:
    """Return 1,797 handwritten digits of 8×8 pixels (scikit-learn), each in [0, 1] (grey level / 16).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    inputs, labels = sklearn_datasets().load_digits(return_X_y=True)
    inputs = np.asarray(inputs, dtype=np.float64).reshape(-1, 8, 8) / 16.0
    return labelled("digits", inputs, labels, DIGITS, "grey level / 16, in [0, 1]")


def mnist(data_dir: Path, classes: tuple[str, ...] = DIGITS) -> Parts:
    """Return (train, test) from the four IDX files of MNIST or a data set in its format, plain or ``.gz``.

    Pixels are divided by 255, so inputs are in [0, 1].

    Raises:
        DataError: the folder or a file is missing, or a file is malformed.
    """
    return _idx_part(data_dir, "train", classes), _idx_part(data_dir, "t10k", classes)


PARTS: dict[str, Callable[[], Parts]] = {
    "two-moons": lambda: two_moons().split(),
    "digits": lambda: digits().split(),
    "breast-cancer": lambda: breast_cancer().split(),
}
"""Data sets without files: name to (training part, held-out part)."""

PARTS_OF_FOLDER: dict[str, Callable[[Path], Parts]] = {
    "mnist": mnist,
    "fashion-mnist": lambda folder: mnist(folder, FASHION),
    "cifar-10": cifar10,
    "adult": adult,
    "spambase": lambda folder: spambase(folder).split(),
}
"""Data sets read from a folder."""


def load_parts(name: str, data_dir: Path | None = None) -> Parts:
    """Return (training part, held-out part) of a data set by name, some of them from a folder.

    Raises:
        DataError: the name is unknown, the folder is missing, or its files are unusable.
    """
    if name in PARTS:
        return PARTS[name]()
    if name not in PARTS_OF_FOLDER:
        known = ", ".join((*PARTS, *PARTS_OF_FOLDER))
        raise DataError(f"unknown data set '{name}'; choose from {known}")
    if data_dir is None:
        raise DataError(f"{name} needs --data-dir, the folder of its files (nothing is downloaded)")
    return PARTS_OF_FOLDER[name](data_dir)


def load_own(path: Path) -> Parts:
    """Return (training part, held-out part) of your own data.

    Args:
        path: a ``.npz``, ``.csv`` or ``.parquet`` file, as for :func:`load_labelled`, of which a share
            is held out; or a folder of MNIST-like IDX files, of CIFAR-10's batches, or of two files
            named train and test, such as train.csv and test.csv.

    Raises:
        DataError: see the module; also a class without rows, or parts that differ in shape or classes.
    """
    if not path.is_dir():
        files.require_file(path, "a .npz, .csv or .parquet file, or a folder")
        parts = _labelled_file(path).split()
    elif find_batches(path):
        parts = cifar10(path)
    elif _files(path, "train") or _files(path, "test"):
        parts = _own_part(path, "train"), _own_part(path, "test")
    elif any(path.glob("*-idx?-ubyte*")):
        parts = mnist(path)
    else:
        raise DataError(
            f"{path} holds no data set; expected IDX files named like MNIST's, CIFAR-10's batches, or files "
            "train and test as .npz, .csv or .parquet"
        )
    training, held_out = parts
    counts = np.bincount(training.labels, minlength=len(training.classes))
    if not counts.all():
        missing = training.classes[int(np.argmin(counts))]
        raise DataError(
            f"{training.name}: class {missing} has no rows to train on; number the classes 0, 1, … "
            "without gaps"
        )
    if held_out.input_shape != training.input_shape or len(held_out.classes) > len(training.classes):
        raise DataError(
            f"{path}: the training and test parts differ: inputs of shape {list(training.input_shape)} and "
            f"{list(held_out.input_shape)}, {len(training.classes)} and {len(held_out.classes)} classes"
        )
    return parts


def load_labelled(source: str | Path, data_dir: Path | None = None) -> Dataset:
    """Return labelled data for evaluation.

    Args:
        source: the name of a data set (held-out part); a folder (test part, see :func:`load_own`); a
            ``.npz`` with arrays inputs (or x) and labels (or y); a ``.csv``, with or without a header
            line, or a ``.parquet``, whose last column is the label. Labels are class indices 0, 1, …
        data_dir: folder of a named data set that needs one.

    Raises:
        DataError: see the module.
    """
    name, path = str(source), Path(source)
    if name in PARTS or (name in PARTS_OF_FOLDER and data_dir is not None):
        return load_parts(name, data_dir)[1]
    if path.is_dir():
        if find_batches(path):
            return cifar10(path)[1]
        return _own_part(path, "test") if _files(path, "test") else _idx_part(path, "t10k", DIGITS)
    files.require_file(
        path, f"a .npz, .csv or .parquet file, a folder of IDX files, or one of {', '.join(PARTS)}"
    )
    return _labelled_file(path)


def load_inputs(path: Path) -> files.Array:
    """Return unlabelled inputs, (N, d) float64, from ``.npy``, ``.csv`` (header or not) or ``.parquet``.

    Raises:
        DataError: see the module; also if pyarrow, needed for ``.parquet``, is not installed.
    """
    path = Path(path)
    files.require_file(path, "a .npy, .csv or .parquet file")
    if path.suffix == ".npy":
        raw = files.read_npy(path)
    elif path.suffix == ".csv":
        raw = files.read_csv(path)[1]
    elif path.suffix == ".parquet":
        raw = files.read_parquet(path)[1]
    else:
        raise DataError(f"{path} has an unknown suffix; .npy, .csv and .parquet are accepted")
    inputs = files.numbers(raw, str(path))
    if not len(inputs):
        raise DataError(f"{path} has no rows; at least one is required")
    files.check_finite(inputs, str(path))
    return inputs.reshape(len(inputs), -1)


def _files(folder: Path, part: str) -> list[Path]:
    return [path for path in (folder / f"{part}{end}" for end in FILES) if path.is_file()]


def _own_part(folder: Path, part: str) -> Dataset:
    """Return one part ("train" or "test") of a folder with one file per part."""
    found = _files(folder, part)
    if len(found) != 1:
        has = "no file" if not found else " and ".join(path.name for path in found)
        raise DataError(f"{folder} has {has} for the {part} part; expected one of {part}.npz, .csv, .parquet")
    return _labelled_file(found[0])


def _labelled_file(path: Path) -> Dataset:
    """Return the data of a file; the label is the last column (or, in .npz, found by its name)."""
    columns: tuple[str, ...] = ()
    if path.suffix == ".npz":
        inputs, labels = files.read_npz(path, ("inputs", "x"), ("labels", "y"))
    elif path.suffix in (".csv", ".parquet"):
        columns, table = files.read_csv(path) if path.suffix == ".csv" else files.read_parquet(path)
        if table.shape[1] < 2:
            raise DataError(
                f"{path} has {'one' if table.size else 'no'} column; expected inputs and, last, the label"
            )
        inputs, labels, columns = table[:, :-1], table[:, -1], columns[:-1]
    else:
        raise DataError(f"{path} has an unknown suffix; {', '.join(FILES)} and folders are accepted")
    inputs = files.numbers(inputs, str(path))
    # Columns of a table have different units, pixels the same.
    scaling = "columns" if inputs.ndim == 2 else "common"
    return labelled(path.name, inputs, labels, None, "as in the file", columns, scaling)


def _idx_part(folder: Path, part: str, classes: tuple[str, ...]) -> Dataset:
    """Return one part ("train" or "t10k") of a folder in MNIST's layout."""
    images, labels = idx_arrays(folder, part)
    return labelled(folder.name, idx_pixels(images), labels, classes, IDX_UNITS)


def idx_arrays(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images (n, h, w) and labels (n,) of one part of a folder in MNIST's layout, as bytes.

    Raises:
        DataError: see :func:`mnist`.
    """
    images = files.read_idx(folder, f"{part}-images-idx3-ubyte", dimensions=3)
    labels = files.read_idx(folder, f"{part}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(labels):
        raise DataError(
            f"{folder}: the {part} files hold {len(images)} images and {len(labels)} labels; "
            "the numbers must be equal"
        )
    if len(labels) and labels.max() > 9:
        raise DataError(
            f"{folder}/{part}-labels-idx1-ubyte: label {labels.max()} is out of range; labels must be 0 to 9"
        )
    return images, labels


def idx_pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return grey levels 0 to 255 as numbers in [0, 1]."""
    return images.astype(np.float32) / np.float32(255)
