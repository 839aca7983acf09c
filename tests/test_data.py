"""Data sets are read exactly; unusable files are refused in one line that names the remedy."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import sys
import zipfile

import numpy as np
import pytest

from lipmodel.data import load as data
from lipmodel.errors import DataError, MissingExtraError
from service.npz import check_npz


def idx(array):
    """The bytes of an IDX file, written out from the format's description."""
    array = np.asarray(array, dtype=np.uint8)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


IMAGES = np.arange(12 * 4, dtype=np.uint8).reshape(12, 2, 2)
LABELS = np.arange(12, dtype=np.uint8) % 10


@pytest.fixture
def idx_folder(tmp_path):
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(IMAGES))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    return tmp_path


def refused(message, function, *arguments):
    with pytest.raises(DataError, match=message) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)


# --- what is read --------------------------------------------------------------------------


def test_two_moons_and_digits_come_in_two_parts_that_share_nothing():
    for name, samples, features in (("two-moons", 4000, 2), ("digits", 1797, 64)):
        train, held_out = data.load_parts(name)
        assert len(train.labels) + len(held_out.labels) == samples
        assert 0.2 <= len(held_out.labels) / samples <= 0.26
        assert train.inputs.shape[1] == features
        assert train.inputs.dtype == np.float32
        assert train.labels.dtype == np.int64
        assert (
            set(np.unique(held_out.labels)) == set(np.unique(train.labels)) == set(range(len(train.classes)))
        )
        if name == "two-moons":  # no two points of it are equal
            assert not set(map(bytes, train.inputs)) & set(map(bytes, held_out.inputs))
        assert data.load_labelled(name).digest == held_out.digest


def test_digits_are_in_the_unit_box():
    inputs = data.digits().inputs
    assert (inputs.min(), inputs.max()) == (0.0, 1.0)
    assert np.array_equal(inputs * 16, np.round(inputs * 16))


def test_the_digest_is_of_inputs_and_labels():
    moons = data.two_moons(20)
    expected = hashlib.sha256(moons.inputs.tobytes() + moons.labels.tobytes()).hexdigest()
    assert moons.digest == expected
    assert data.two_moons(20, seed=1).digest != expected


def test_idx_files_plain_and_compressed(idx_folder):
    train, test = data.mnist(idx_folder)
    assert train.input_shape == (2, 2)
    assert np.array_equal(test.labels, LABELS)
    assert np.array_equal(train.inputs, IMAGES.reshape(12, 4).astype(np.float32) / np.float32(255))
    assert data.load_labelled(str(idx_folder)).digest == test.digest
    assert data.load_parts("mnist", idx_folder)[0].digest == train.digest


def test_mnist_itself(data_folder):
    train, test = data.mnist(data_folder / "mnist")
    assert train.inputs.shape == (60000, 784)
    assert test.inputs.shape == (10000, 784)
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (train.inputs.min(), train.inputs.max()) == (0.0, 1.0)


@pytest.mark.parametrize("names", [("inputs", "labels"), ("x", "y")])
def test_npz(tmp_path, names):
    inputs, labels = np.arange(12.0).reshape(3, 2, 2), [0, 2, 1]
    np.savez(tmp_path / "d.npz", **dict(zip(names, (inputs, labels), strict=True)))
    read = data.load_labelled(tmp_path / "d.npz")
    assert np.array_equal(read.inputs, inputs.reshape(3, 4))
    assert (read.labels.tolist(), read.classes, read.input_shape) == ([0, 2, 1], ("0", "1", "2"), (2, 2))


@pytest.mark.parametrize("header", ["", "width,height,label\n", "\ufeffa,b,c\n"])
def test_csv_with_and_without_a_header(tmp_path, header):
    path = tmp_path / "d.csv"
    path.write_text(header + "1,2.5,0\n\n3,-4e1,1\n", encoding="utf-8")
    read = data.load_labelled(path)
    assert read.inputs.tolist() == [[1, 2.5], [3, -40]]
    assert read.labels.tolist() == [0, 1]
    assert data.load_inputs(path).tolist() == [[1, 2.5, 0], [3, -40, 1]]


def test_inputs_keep_float64(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0.1, 1 / 3]]))
    read = data.load_inputs(tmp_path / "x.npy")
    assert read.dtype == np.float64
    assert read.tolist() == [[0.1, 1 / 3]]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    parquet.write_table(pyarrow.table({"a": [1.0, 2.0], "b": [3, 4]}), tmp_path / "x.parquet")
    assert data.load_inputs(tmp_path / "x.parquet").tolist() == [[1, 3], [2, 4]]


# --- what is refused -----------------------------------------------------------------------


def test_missing_files_say_what_is_accepted(tmp_path):
    refused("nothing.csv not found; .*npy", data.load_inputs, tmp_path / "nothing.csv")
    refused("nothing not found; .*two-moons", data.load_labelled, "nothing")
    refused("folder .*nothing not found; .*nothing is downloaded", data.mnist, tmp_path / "nothing")
    refused("neither train-images-idx3-ubyte nor .*gz.*nothing is downloaded", data.mnist, tmp_path)
    refused("mnist needs --data-dir", data.load_parts, "mnist")
    refused("unknown data set 'cifar'; choose from two-moons, digits, .*mnist", data.load_parts, "cifar")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t10k-images-idx3-ubyte", b"", "magic number 2051"),
        ("t10k-images-idx3-ubyte", idx(LABELS), "magic number 2051"),
        ("t10k-images-idx3-ubyte", idx(IMAGES)[:-1], "announces 12 × 2 × 2 bytes and has 47"),
        ("t10k-images-idx3-ubyte", idx(IMAGES) + b"x", "announces"),
        ("t10k-images-idx3-ubyte", idx(IMAGES[:5]), "5 images and 12 labels"),
        ("t10k-labels-idx1-ubyte", idx(LABELS + 1), "label 10 is out of range; labels must be 0 to 9"),
        ("t10k-labels-idx1-ubyte", idx(LABELS * 0), "all labels are 0; at least two classes"),
        (
            "t10k-labels-idx1-ubyte.gz",
            gzip.compress(idx(LABELS), mtime=0)[:-9],
            "cannot be read as an IDX file",
        ),
        ("t10k-labels-idx1-ubyte.gz", b"not gzip", "cannot be read as an IDX file"),
    ],
)
def test_damaged_idx_files_are_named(idx_folder, name, content, message):
    (idx_folder / name).write_bytes(content)
    refused(f"{idx_folder.name}.*{message}", data.mnist, idx_folder)


def test_idx_files_without_rows(idx_folder):
    (idx_folder / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES[:0]))
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:0]))
    refused("has no rows", data.mnist, idx_folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows of numbers"),
        ("a,b,c\n", "no rows of numbers"),
        ("1,2,0\n3,1\n", "line 2 has 2 columns; the first line has 3"),
        ("1,2,0\n3,big,1\n", "line 2, column 2: 'big' is not a number"),
        ("1,2,0\n3,,1\n", "line 2, column 2: '' is not a number"),
        ("1,2,0\n3,nan,1\n", "row 1, column 1 is not a finite number"),
        ("1,2,0\n3,1e39,1\n", "row 1, column 1 is not a finite number"),
        ("1,2,0\n3,4,-1\n", "label -1 of row 1 is out of range"),
        ("1,2,0\n3,4,0.5\n", "labels must be class indices"),
        ("1,2,0\n3,4,0\n", "all labels are 0"),
        ("1\n2\n", "one column"),
    ],
)
def test_malformed_labelled_csv(tmp_path, content, message):
    path = tmp_path / "d.csv"
    path.write_text(content)
    refused(message, data.load_labelled, path)


def test_csv_that_is_not_text(tmp_path):
    (tmp_path / "d.csv").write_bytes(b"\xff\xfe\x00,1\n")
    refused("UTF-8", data.load_inputs, tmp_path / "d.csv")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 3)), "no rows"),
        (np.zeros(3), r"shape \[3\]"),
        (np.zeros((3, 0)), "at least one number"),
        (np.array([["a", "b"]]), "only numbers"),
        (np.array([[1.0, np.inf]]), "row 0, column 1 is not a finite number"),
    ],
)
def test_malformed_npy(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    refused(message, data.load_inputs, tmp_path / "x.npy")


def test_npy_that_is_truncated_or_holds_objects(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((4, 4)))
    path.write_bytes(path.read_bytes()[:-8])
    refused("cannot be read as a .npy file", data.load_inputs, path)
    np.save(path, np.array([[1], [1, 2]], dtype=object), allow_pickle=True)
    refused("cannot be read as a .npy file", data.load_inputs, path)  # never unpickled


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": np.zeros((2, 1))}, "no array 'labels' or 'y'"),
        ({"y": [0, 1]}, "no array 'inputs' or 'x'"),
        ({"x": np.zeros((3, 1)), "y": [0, 1]}, "3 inputs and 2 labels"),
        ({"x": np.zeros((2, 1)), "y": [[0], [1]]}, "2 inputs and 2 labels"),
        ({"x": np.zeros((2, 1)), "y": ["a", "b"]}, "labels must be class indices"),
        ({"x": np.full((2, 1), np.nan), "y": [0, 1]}, "not a finite number"),
        ({"x": np.zeros((0, 1)), "y": np.zeros(0, int)}, "no rows"),
        (
            {"x": np.zeros((2, 1)), "y": [0, 20_000_000]},
            "label 20000000 of row 1 is out of range; labels must be 0 to 99999",
        ),
        ({"x": np.zeros((2, 1)), "y": [0.0, 1e300]}, "labels must be class indices"),
        ({"x": np.zeros((2, 1)), "y": [0.0, np.inf]}, "labels must be class indices"),
        ({"x": np.zeros((2, 1)), "y": np.array([0, 2**64 - 1], np.uint64)}, "labels must be class indices"),
    ],
)
def test_malformed_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    refused(message, data.load_labelled, tmp_path / "d.npz")


def test_unknown_endings(tmp_path):
    (tmp_path / "d.txt").write_text("1,2\n")
    refused("unknown suffix; .npy, .csv and .parquet", data.load_inputs, tmp_path / "d.txt")
    refused("unknown suffix; .npz, .csv", data.load_labelled, tmp_path / "d.txt")


def test_a_class_too_small_to_split():
    moons = data.two_moons(20)
    lonely = data.Dataset("d", moons.inputs[:5], np.array([0, 0, 0, 0, 1]), ("a", "b"), (2,), "")
    refused("class 'b' has too few rows", lonely.split)


def test_optional_parts_that_are_missing_are_named(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused("lipcert.tables", data.load_inputs, tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"lipcert\[train\]"):
        data.two_moons(10)


def test_reading_data_imports_no_sklearn_before_it_is_needed():
    assert "sklearn" not in vars(importlib.import_module("lipmodel.data.load"))


# --- data of your own, to train on ---------------------------------------------------------


def own_csv(path, labels, header="", column="1.5"):
    path.write_text(header + "".join(f"{i},{column},{label}\n" for i, label in enumerate(labels)))


def test_a_file_of_your_own_is_split_and_a_folder_is_not(tmp_path):
    own_csv(tmp_path / "mine.csv", [0, 1, 2] * 8, "width,height,kind\n")
    training, held_out = data.load_own(tmp_path / "mine.csv")
    assert (len(training.labels), len(held_out.labels)) == (18, 6)
    assert (training.columns, training.scaling) == (("width", "height"), "columns")
    assert sorted([*training.inputs[:, 0], *held_out.inputs[:, 0]]) == list(range(24))
    folder = tmp_path / "folder"
    folder.mkdir()
    own_csv(folder / "train.csv", [0, 1, 2])
    np.savez(folder / "test.npz", x=np.ones((2, 2)), y=[0, 1])
    training, held_out = data.load_own(folder)
    assert (len(training.labels), len(held_out.labels)) == (3, 2)
    assert data.load_labelled(folder).digest == held_out.digest


def test_images_of_your_own_are_scaled_alike(tmp_path):
    images = np.arange(8 * 2 * 3, dtype=np.uint8).reshape(8, 2, 3)
    np.savez(tmp_path / "d.npz", x=images, y=[0, 1] * 4)
    training, _ = data.load_own(tmp_path / "d.npz")
    assert (training.scaling, training.input_shape) == ("common", (2, 3))
    assert data.load_labelled(tmp_path / "d.npz").inputs.max() == 47  # the units are the file's


def test_idx_files_of_your_own(idx_folder):
    assert data.load_own(idx_folder)[0].digest == data.mnist(idx_folder)[0].digest
    assert data.load_parts("fashion-mnist", idx_folder)[0].classes[9] == "ankle boot"


def test_parquet_with_labels_last(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    path = tmp_path / "d.parquet"
    parquet.write_table(pyarrow.table({"a": np.arange(8.0), "b": np.ones(8), "y": [0, 1] * 4}), path)
    training, _ = data.load_own(path)
    assert (training.columns, training.inputs.shape) == (("a", "b"), (6, 2))
    assert data.load_labelled(path).labels.tolist() == [0, 1] * 4
    parquet.write_table(pyarrow.table({"a": ["x", "y"], "y": [0, 1]}), path)
    refused("column 'a' has type string; only numbers .*columns of 0 and 1", data.load_own, path)
    parquet.write_table(pyarrow.table({"a": [1.0, None], "y": [0, 1]}), path)
    refused("row 1, column 0 is not a finite number", data.load_own, path)


@pytest.mark.parametrize(
    ("labels", "column", "message"),
    [
        ([1, 2] * 8, "1.5", "class 0 has no rows to train on; number the classes 0, 1, … without gaps"),
        ([0, 2] * 8, "1.5", "class 1 has no rows"),
        ([0, 1, 1, 1], "1.5", "class '0' has too few rows"),
        ([0] * 8, "1.5", "all labels are 0; at least two classes"),
        ([0, -1] * 8, "1.5", "label -1 of row 1 is out of range"),
        ([0, 1] * 8, "nan", "row 0, column 1 is not a finite number; fill or drop the missing values"),
        ([0, 1] * 8, "red", "'red' is not a number; encode text as columns of 0 and 1"),
        ([], "1.5", "no rows of numbers"),
    ],
)
def test_bad_data_of_your_own(tmp_path, labels, column, message):
    own_csv(tmp_path / "d.csv", labels, column=column)
    refused(message, data.load_own, tmp_path / "d.csv")


def test_bad_folders_of_your_own(tmp_path):
    refused(
        "gone not found; expected a .npz, .csv or .parquet file, or a folder",
        data.load_own,
        tmp_path / "gone",
    )
    refused(
        "holds no data set; expected IDX files named like MNIST's, .* train and test as .npz",
        data.load_own,
        tmp_path,
    )
    own_csv(tmp_path / "train.csv", [0, 1])
    refused(
        "has no file for the test part; expected one of test.npz, .csv, .parquet", data.load_own, tmp_path
    )
    own_csv(tmp_path / "test.csv", [0, 1, 2])
    refused("the training and test parts differ: .* 2 and 3 classes", data.load_own, tmp_path)
    np.savez(tmp_path / "test.npz", x=np.ones((2, 2)), y=[0, 1])
    refused("has test.npz and test.csv for the test part", data.load_own, tmp_path)
    (tmp_path / "test.csv").unlink()
    np.savez(tmp_path / "test.npz", x=np.ones((2, 3)), y=[0, 1])
    refused(r"the training and test parts differ: inputs of shape \[2\] and \[3\]", data.load_own, tmp_path)


@pytest.mark.parametrize("name", ["d.npz", "d.csv", "d.parquet", "x.npy"])
@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"PAR1", bytes(range(256)) * 4]
)
def test_files_of_something_else(tmp_path, name, content):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / name).write_bytes(content)
    refused(name, data.load_inputs if name == "x.npy" else data.load_own, tmp_path / name)


def test_a_truncated_npz(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.ones((50, 4)), y=[0, 1] * 25)
    whole = (tmp_path / "d.npz").read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "d.npz").write_bytes(whole[: int(share * len(whole))])
        refused("cannot be read as a .npz file: File is not a zip file", data.load_own, tmp_path / "d.npz")


def test_a_zip_archive_with_a_large_directory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    entry = b"PK\1\2" + bytes(24) + (1).to_bytes(2, "little") + bytes(16) + b"a"
    directory = entry * 30_000
    end = b"PK\5\6" + bytes(4) + 2 * (30_000).to_bytes(2, "little") + len(directory).to_bytes(4, "little")
    (tmp_path / "d.npz").write_bytes(directory + end + bytes(6))
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it was opened"))
    refused("announces a directory of 1410000 bytes; at most 1048576", data.load_own, tmp_path / "d.npz")
    with pytest.raises(DataError, match="announces a directory"):
        check_npz(tmp_path / "d.npz", 2**30)


def test_a_npy_that_announces_more_than_there_is(tmp_path):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 4), }"
    content = (
        b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117).encode() + b"\n" + bytes(64)
    )
    (tmp_path / "x.npy").write_bytes(content)
    refused("cannot be read as a .npy file", data.load_inputs, tmp_path / "x.npy")
