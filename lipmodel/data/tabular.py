"""Load well-known tables: breast-cancer (scikit-learn), adult and spambase (UCI files).

Inputs keep the units of the table, since a radius is in the units of the request; scaling is part of the
network (``scaling="columns"``). Text is encoded as columns of 0 and 1, one per category.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from lipmodel.data.dataset import Dataset, labelled
from lipmodel.data.files import find_file, read_csv, read_lines
from lipmodel.errors import DataError, MissingExtraError

ADULT_COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation",
    "relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country",
)  # fmt: skip
ADULT_NUMBERS = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
ADULT_LEFT_OUT = ("fnlwgt", "education")  # weight of a row; education-num in words
ADULT_CLASSES = ("<=50K", ">50K")
SPAMBASE_COLUMNS = 57


def sklearn_datasets() -> Any:
    """Return scikit-learn's module of data sets.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        return importlib.import_module("sklearn.datasets")
    except ModuleNotFoundError:
        raise MissingExtraError("a data set of scikit-learn", "train") from None


def breast_cancer() -> Dataset:
    """Return 569 tumours described by 30 measures of their cells' nuclei (Wolberg, Street, Mangasarian 1995).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    bunch = sklearn_datasets().load_breast_cancer()
    columns = tuple(str(name) for name in bunch.feature_names)
    classes = tuple(str(name) for name in bunch.target_names)
    units = "each measure in its own unit, as scikit-learn gives it"
    return labelled("breast-cancer", bunch.data, bunch.target, classes, units, columns, "columns")


def spambase(folder: Path) -> Dataset:
    """Return 4,601 letters: 57 frequencies of words and signs, and lengths of capitals (Hopkins et al. 1999).

    Raises:
        DataError: the file is missing or malformed.
    """
    path = find_file(folder, "spambase.csv", "spambase.data")
    columns, table = read_csv(path)
    if table.shape[1] != SPAMBASE_COLUMNS + 1:
        raise DataError(f"{path} has {table.shape[1]} columns; spambase has {SPAMBASE_COLUMNS} and the label")
    units = "frequencies in percent, lengths in letters"
    return labelled(
        "spambase", table[:, :-1], table[:, -1], ("letter", "spam"), units, columns[:-1], "columns"
    )


def adult(folder: Path) -> tuple[Dataset, Dataset]:
    """Return (train, test): 48,842 people, labelled by income above $50,000 (Kohavi, Becker 1996).

    Five columns of numbers, and a column of 0 and 1 for each category of the training part (an unknown
    value, "?", is a category; one that only the test part has is 0 throughout). Left out: fnlwgt, the
    a row's weight in the population, and education, which is education-num in words.

    Raises:
        DataError: a file is missing or malformed.
    """
    texts = [_adult_rows(find_file(folder, name)) for name in ("adult.data", "adult.test")]
    categories = {
        name: sorted({row[index] for row in texts[0][0]})
        for index, name in enumerate(ADULT_COLUMNS)
        if name not in ADULT_NUMBERS + ADULT_LEFT_OUT
    }
    columns = (
        *ADULT_NUMBERS,
        *(f"{name}={value}" for name, values in categories.items() for value in values),
    )
    units = "age and hours in years and hours, education in years, gains and losses in $, categories 0 or 1"

    def part(rows: list[list[str]], labels: list[int]) -> Dataset:
        blocks = []
        for name in ADULT_NUMBERS:
            index = ADULT_COLUMNS.index(name)
            try:
                blocks.append(np.array([[float(row[index])] for row in rows]))
            except ValueError as error:
                raise DataError(f"adult: column {name} is not of numbers: {error}") from error
        for name, values in categories.items():
            given = np.array([row[ADULT_COLUMNS.index(name)] for row in rows])
            blocks.append((given[:, None] == np.array(values)).astype(np.float64))
        return labelled("adult", np.hstack(blocks), labels, ADULT_CLASSES, units, columns, "columns")

    return part(*texts[0]), part(*texts[1])


def _adult_rows(path: Path) -> tuple[list[list[str]], list[int]]:
    """Return the cells of each row, stripped, and the labels."""
    rows, labels = [], []
    for number, cells in read_lines(path):
        if cells[0].startswith("|"):  # the test file begins with a comment
            continue
        *row, label = (cell.strip() for cell in cells)
        if len(row) != len(ADULT_COLUMNS) or label.rstrip(".") not in ADULT_CLASSES:
            raise DataError(
                f"{path}, line {number}: expected {len(ADULT_COLUMNS)} columns and the label, "
                f"{' or '.join(ADULT_CLASSES)}"
            )
        rows.append(row)
        labels.append(ADULT_CLASSES.index(label.rstrip(".")))
    if not rows:
        raise DataError(f"{path} has no rows; at least one is required")
    return rows, labels
