"""Tables of known meaning, against their published counts and rows read by hand."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from lipmodel.data import load as data
from lipmodel.data.tabular import ADULT_LEFT_OUT, adult, breast_cancer, spambase
from lipmodel.errors import DataError

ROW = "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, United-States, <=50K"
OTHER = "50, Private, 83311, HS-grad, 9, Divorced, ?, Husband, Black, Female, 0, 7, 13, Cuba, >50K"


@pytest.fixture
def adult_folder(tmp_path):
    (tmp_path / "adult.data").write_text(f"{ROW}\n{OTHER}\n\n")
    test = f"|1x3 Cross validator\n{ROW}.\n{OTHER.replace('Cuba', 'Mars')}.\n"
    (tmp_path / "adult.test.gz").write_bytes(gzip.compress(test.encode()))
    return tmp_path


def test_adult_becomes_numbers_and_columns_of_0_and_1(adult_folder):
    train, test = adult(adult_folder)
    named = [dict(zip(train.columns, row, strict=True)) for row in train.inputs]
    assert [named[0][c] for c in ("age", "education-num", "capital-gain", "hours-per-week")] == [
        39,
        13,
        2174,
        40,
    ]
    assert named[0]["workclass=State-gov"] == named[1]["occupation=?"] == 1
    assert named[0]["workclass=Private"] == named[1]["race=White"] == 0
    assert not any(
        column.startswith(ADULT_LEFT_OUT[1] + "=") or "fnlwgt" in column for column in train.columns
    )
    assert train.labels.tolist() == test.labels.tolist() == [0, 1]
    assert test.columns == train.columns
    assert np.array_equal(test.inputs[0], train.inputs[0])
    country = [i for i, column in enumerate(test.columns) if column.startswith("native-country=")]
    assert test.inputs[1, country].tolist() == [0, 0]  # Mars is no country of the training part
    # each category once: 7 features beside the 5 numbers
    assert (train.inputs[:, 5:].sum(axis=1) == 7).all()


def test_the_real_tables_have_their_published_counts(data_folder):
    train, test = adult(data_folder / "tabular")
    assert np.bincount(train.labels).tolist() == [24720, 7841]
    assert np.bincount(test.labels).tolist() == [12435, 3846]
    assert (train.inputs[:, 5:].sum(axis=1) == 7).all()
    letters = spambase(data_folder / "tabular")
    assert np.bincount(letters.labels).tolist() == [2788, 1813]
    assert letters.columns[0] == "word_freq_make"
    assert letters.inputs.shape == (4601, 57)


def test_breast_cancer():
    tumours = breast_cancer()
    assert np.bincount(tumours.labels).tolist() == [212, 357]
    assert (tumours.inputs.shape, tumours.scaling) == ((569, 30), "columns")
    assert tumours.columns[3] == "mean area"
    assert data.load_labelled("breast-cancer").digest == tumours.split()[1].digest


def test_a_named_set_for_evaluation_takes_its_folder(adult_folder):
    assert data.load_labelled("adult", adult_folder).digest == adult(adult_folder)[1].digest


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adult.data", ROW.replace("39", "old"), "column age is not of numbers"),
        (
            "adult.data",
            ROW.replace("<=50K", "rich"),
            r"adult.data, line 1: expected 14 columns and the label, <=50K or >50K",
        ),
        ("adult.data", ROW.replace("39, ", ""), "line 1: expected 14 columns"),
        ("adult.data", f"{ROW}\n{ROW}", "all labels are 0"),
        ("adult.test", "|x\n", "adult.test has no rows"),
    ],
)
def test_damaged_adult(adult_folder, name, content, message):
    (adult_folder / "adult.test.gz").unlink() if name == "adult.test" else None
    (adult_folder / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        adult(adult_folder)
    assert "\n" not in str(caught.value)


def test_missing_tables(tmp_path):
    with pytest.raises(DataError, match=r"neither adult.data nor adult.data.gz; put the file there"):
        adult(tmp_path)
    with pytest.raises(DataError, match=r"neither spambase.csv nor spambase.csv.gz nor spambase.data"):
        spambase(tmp_path)
    (tmp_path / "spambase.data").write_text("1,2,0\n3,4,1\n")
    with pytest.raises(DataError, match="3 columns; spambase has 57"):
        spambase(tmp_path)
    with pytest.raises(DataError, match="adult needs --data-dir"):
        data.load_parts("adult")
