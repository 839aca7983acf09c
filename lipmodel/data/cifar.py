"""Read CIFAR-10 (Krizhevsky 2009) as published: six binary batches, or six Python pickles.

Binary: per image one byte of label and 3,072 of pixels, all red, then green, then blue. Pickle: a
dictionary with ``data`` (N, 3072) uint8 and ``labels``. Unpickling can run any code that a file names, so
only the functions that rebuild arrays of numbers are allowed; a file that names others is refused.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lipmodel.data.dataset import Dataset, labelled
from lipmodel.data.files import read_bytes
from lipmodel.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
PIXELS = 3072
TRAINING = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"
FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")  # the folders in the published archives

Bytes = NDArray[np.uint8]


def find_batches(folder: Path) -> Path | None:
    """Return the folder, or its subfolder, that holds batches of CIFAR-10; None if neither does."""
    for place in (folder, *(folder / name for name in FOLDERS)):
        if any((place / f"{name}{end}").is_file() for name in (*TRAINING, TEST) for end in (".bin", "")):
            return place
    return None


def cifar10(folder: Path) -> tuple[Dataset, Dataset]:
    """Return (train, test), pixels in [0, 1] (divided by 255), each image flattened from (3, 32, 32).

    Raises:
        DataError: the folder or a batch is missing, or a batch is malformed.
    """
    place = find_batches(folder)
    if place is None:
        raise DataError(
            f"{folder} does not hold CIFAR-10; expected {TRAINING[0]} … {TRAINING[-1]} and {TEST}, with or "
            "without .bin (nothing is downloaded)"
        )
    return _part(place, TRAINING), _part(place, (TEST,))


def _part(folder: Path, names: tuple[str, ...]) -> Dataset:
    batches = [_batch(folder, name) for name in names]
    pixels = np.concatenate([batch[0] for batch in batches])
    labels = np.concatenate([batch[1] for batch in batches])
    inputs = (pixels.astype(np.float32) / np.float32(255)).reshape(-1, *SHAPE)
    return labelled("cifar-10", inputs, labels, CLASSES, "intensity / 255, in [0, 1]")


def _batch(folder: Path, name: str) -> tuple[Bytes, Bytes]:
    """Return pixels (N, 3072) and labels (N,) of one batch, in either form."""
    binary, pickled = folder / f"{name}.bin", folder / name
    if binary.is_file():
        path, (pixels, labels) = binary, _binary(binary)
    elif pickled.is_file():
        path, (pixels, labels) = pickled, _pickled(pickled)
    else:
        raise DataError(f"{folder} has neither {binary.name} nor {name}; nothing is downloaded")
    if len(labels) and labels.max() >= len(CLASSES):
        raise DataError(f"{path}: label {labels.max()} is out of range; labels must be 0 to 9")
    return pixels, labels


def _binary(path: Path) -> tuple[Bytes, Bytes]:
    content = read_bytes(path, "a batch of CIFAR-10")
    if not content or len(content) % (1 + PIXELS):
        raise DataError(
            f"{path} has {len(content)} bytes, which is not a multiple of {1 + PIXELS}; the file is "
            "truncated or damaged: download it again"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return rows[:, 1:], rows[:, 0]


class _ArraysOnly(pickle.Unpickler):
    """An unpickler of dictionaries, lists, strings, numbers and arrays of numbers.

    Only the functions that rebuild arrays are ever called.
    """

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a batch of CIFAR-10")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _pickled(path: Path) -> tuple[Bytes, Bytes]:
    content = read_bytes(path, "a batch of CIFAR-10")
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        pixels, labels = np.asarray(batch["data"]), np.asarray(batch["labels"])
        fine = pixels.dtype == np.uint8 and labels.dtype.kind == "i" and pixels.shape == (len(labels), PIXELS)
        if not fine or labels.min() < 0 or labels.max() > 255:
            raise ValueError(f"data {pixels.dtype} {list(pixels.shape)} and labels {list(labels.shape)}")
    except Exception as error:  # a damaged pickle raises anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as a batch of CIFAR-10: {reason}") from error
    return pixels, labels.astype(np.uint8)
