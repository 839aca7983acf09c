"""Bulk certification: one result for each row, resumed where it ended, and nothing in the way of either."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from lipmodel.bulk.partitions import find_partitions
from lipmodel.bulk.results import Results, ResultsKey
from lipmodel.bulk.run import Certification, certify_files
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.cli import main
from lipmodel.errors import DataError, MissingExtraError
from lipmodel.norms import Norm
from tests.bulk.conftest import GROUP_ROWS, ROWS, SIZE, check_results, read_rows
from tests.networks import groupsort_net, to_file
from tests.service.conftest import eventually

PARTS = ["a.parquet.000000", "a.parquet.000001", "a.parquet.000002", "sub/b.parquet.000000",
         "sub/c.parquet.000000"]  # fmt: skip


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_row_has_one_result(predictor, data, tmp_path):
    shares = []
    summary = certify_files(predictor, f"{data}/**/*.parquet", str(tmp_path / "out"), progress=shares.append)
    assert (summary.rows, summary.partitions, summary.found) == (sum(ROWS.values()), len(PARTS), 0)
    assert shares[-1] == 1.0
    assert shares == sorted(shares)
    assert sorted(contents(tmp_path / "out")) == [f"{part}.parquet" for part in PARTS]
    results = pq.read_table(tmp_path / "out")
    for name, rows in ROWS.items():
        mine = results.filter(pa.compute.equal(results["file"].cast(pa.string()), name))
        check_results(predictor, read_rows(data / name), mine, name)
        assert len(mine) == rows


def test_arrays_in_parts(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr("lipmodel.bulk.partitions.NPY_ROWS", 1200)
    rows = np.random.default_rng(0).normal(size=(3100, 2, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    summary = certify_files(predictor, str(tmp_path / "x.npy"), str(tmp_path / "out"), Norm.INF)
    assert (summary.norm, summary.rows, summary.partitions) == ("inf", 3100, 3)
    results = pq.read_table(tmp_path / "out")
    check_results(predictor, rows.reshape(3100, SIZE), results, "x.npy", group=1200, norm=Norm.INF)


def test_tightened(predictor, data, tmp_path):
    rows = read_rows(data / "a.parquet")[:7]
    np.save(tmp_path / "x.npy", rows)
    certify_files(predictor, str(tmp_path / "x.npy"), str(tmp_path / "out"), tighten=True)
    found = predictor.predict(rows, tighten=True)
    results = pq.read_table(tmp_path / "out")
    assert results["certified_radius"].to_pylist() == found.radii.certified_radius.tolist()
    assert results["method"].to_pylist() == [str(method) for method in found.tightening.method]


def test_what_stands_is_left_and_what_does_not_is_done(predictor, data, tmp_path):
    source, out = f"{data}/**/*.parquet", tmp_path / "out"
    certify_files(predictor, source, str(out))
    whole = contents(out)
    first, second = (out / f"{part}.parquet" for part in PARTS[:2])
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    (out / f".{PARTS[2]}.parquet.0123").write_bytes(b"half")
    others = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet") if path != second}
    summary = certify_files(predictor, source, str(out))
    assert summary.found == summary.rows - 2 * GROUP_ROWS
    assert contents(out) == whole
    assert {path: path.stat().st_mtime_ns for path in others if not path.name.startswith(".")} == {
        path: stamp for path, stamp in others.items() if not path.name.startswith(".")
    }


def test_a_file_written_again_is_certified_again(predictor, data, tmp_path):
    source, out = f"{data}/**/*.parquet", tmp_path / "out"
    certify_files(predictor, source, str(out))
    rows = read_rows(data / "sub/b.parquet") + 1.0
    pq.write_table(pa.table({f"x{k}": rows[:, k] for k in range(SIZE)}), data / "sub/b.parquet")
    assert certify_files(predictor, source, str(out)).found == sum(ROWS.values()) - 800
    results = pq.read_table(out / f"{PARTS[3]}.parquet")
    check_results(predictor, rows, results, "sub/b.parquet")


def test_results_of_something_else_are_not_touched(predictor, data, tmp_path):
    source, out = f"{data}/**/*.parquet", tmp_path / "out"
    certify_files(predictor, source, str(out))
    whole = contents(out)
    other = CertifiedPredictor(to_file(groupsort_net((SIZE, 16), 3)))
    for asked in ({"predictor": other}, {"norm": Norm.INF}, {"tighten": True}):
        with pytest.raises(DataError, match="results of another model, norm or tier"):
            certify_files(**{"predictor": predictor, "source": source, "folder": str(out)} | asked)
    with pytest.raises(DataError, match=r"contains sub/b\.parquet\.000000\.parquet, which is not a result"):
        certify_files(predictor, f"{data}/*.parquet", str(out))
    assert contents(out) == whole


@pytest.fixture(scope="session")
def long_work(tmp_path_factory):
    """A command whose work is of many partitions, each of some time; it lacks the folder of results."""
    tmp_path = tmp_path_factory.mktemp("long")
    (tmp_path / "net.onnx").write_bytes(to_file(groupsort_net((64, 256, 256), 10)))
    rows = np.random.default_rng(0).normal(size=(40_000, 64))
    table = pa.table({f"x{k}": rows[:, k] for k in range(64)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=1000)
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's & mutes it
    program = [sys.executable, "-c", f"{heard}; from lipmodel.cli import main; main()"]
    return [*program, "certify", str(tmp_path / "net.onnx"), "--inputs", str(tmp_path / "x.parquet"), "--out"]


@pytest.fixture(scope="session")
def undisturbed(long_work, tmp_path_factory):
    """The results of that command."""
    out = tmp_path_factory.mktemp("undisturbed")
    subprocess.check_output([*long_work, str(out)])
    return contents(out)


def workers_of(pid):
    """The processes of a command that certify."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.parametrize("victim", ["command", "worker", "interrupt"])
def test_a_run_that_was_killed_is_resumed(long_work, undisturbed, tmp_path, victim):
    out = tmp_path / "out"
    with subprocess.Popen([*long_work, str(out)], stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: list(out.glob("*.parquet")))
        workers = workers_of(process.pid)
        assert workers
        if victim == "worker":
            os.kill(workers[0], signal.SIGKILL)
        else:
            process.send_signal(signal.SIGKILL if victim == "command" else signal.SIGINT)
        told = process.stderr.read()
    expected = {"command": (-9, ""), "worker": (2, "a process was killed"), "interrupt": (130, "interrupted")}
    assert process.returncode == expected[victim][0]
    assert expected[victim][1] in told
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))
    done = contents(out)
    whole = {name for name in done if not name.startswith(".")}
    assert 0 < len(whole) < 40
    again = json.loads(subprocess.check_output([*long_work, str(out), "--json"]))
    assert (again["rows"], again["partitions"], again["found"]) == (40_000, 40, 1000 * len(whole))
    assert contents(out) == undisturbed


def test_in_an_object_store(predictor, data):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    for name in ROWS:
        store.pipe(f"/bucket/in/{name}", (data / name).read_bytes())
    partitions = find_partitions("memory://bucket/in/**/*.parquet")
    key = ResultsKey(predictor.file.sha256, "2", False)
    results = Results("memory://bucket/out", key)
    assert results.missing(partitions) == partitions
    certify = Certification(predictor.file, key, "memory://bucket/out").prepare()
    assert sum(map(certify, partitions[1:])) == sum(ROWS.values()) - GROUP_ROWS
    assert results.missing(partitions) == partitions[:1]
    with store.open(f"/bucket/out/{PARTS[3]}.parquet") as file:
        check_results(predictor, read_rows(data / "sub/b.parquet"), pq.read_table(file), "sub/b.parquet")
    store.rm("/bucket", recursive=True)


def parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)


def bad_inputs(folder):
    """Return sources of inputs that cannot be certified, with the message about each."""
    good = {f"x{k}": np.zeros(1500) for k in range(SIZE)}
    parquet(folder / "nan.parquet", good | {"x2": np.where(np.arange(1500) == 1203, np.nan, 0.0)})
    parquet(folder / "null.parquet", good | {"x0": [None] + [1.0] * 1499})
    parquet(folder / "narrow.parquet", {"x": np.zeros(5)})
    parquet(folder / "text.parquet", good | {"x3": ["a"] * 1500})
    parquet(folder / "empty.parquet", {name: values[:0] for name, values in good.items()})
    parquet(folder / "_hidden.parquet", good)
    (folder / "cut.parquet").write_bytes((folder / "text.parquet").read_bytes()[:-50])
    np.save(folder / "inf.npy", np.full((3, SIZE), np.inf))
    np.save(folder / "columns.npy", np.asfortranarray(np.zeros((5, SIZE))))
    np.save(folder / "flat.npy", np.zeros(5))
    np.save(folder / "objects.npy", np.array([["a"] * SIZE]))
    np.save(folder / "cut.npy", np.zeros((5, SIZE)))
    (folder / "cut.npy").write_bytes((folder / "cut.npy").read_bytes()[:-1])
    (folder / "x.csv").write_text("1,2,3,4")
    return {
        "nan.parquet": r"nan\.parquet: inputs\[1203\]\[2\]: nan is not a finite number",
        "null.parquet": r"inputs\[0\]\[0\]: nan is not a finite number",
        "narrow.parquet": r"has shape \[5, 1\]",
        "text.parquet": "column 'x3' has type string",
        "empty.parquet": "has no rows",
        "_hidden.parquet": "ignore names",
        "cut.parquet": "cannot be read as a parquet file",
        "inf.npy": "inf is not a finite number",
        "columns.npy": "stored column by column",
        "flat.npy": r"shape \[5\]; expected rows of numbers",
        "objects.npy": "rows of numbers",
        "cut.npy": "truncated or damaged",
        "x.csv": "unknown suffix",
        "*.nothing": "not found",
        "gone/x.npy": "not found",
    }


def test_bad_inputs_are_reported(predictor, tmp_path):
    for name, reason in bad_inputs(tmp_path).items():
        with pytest.raises(DataError, match=reason):
            certify_files(predictor, str(tmp_path / name), str(tmp_path / f"out-{name}"))
    for url, reason in [("nothing://x", "Protocol not known"), ("s3://bucket/x.parquet", "s3fs|rror")]:
        with pytest.raises(DataError, match=reason):
            certify_files(predictor, url, str(tmp_path / "out"))
    (tmp_path / "file").write_text("")
    np.save(tmp_path / "x.npy", np.zeros((3, SIZE)))
    with pytest.raises(DataError, match="file"):
        certify_files(predictor, str(tmp_path / "x.npy"), str(tmp_path / "file"))


def test_rows_before_a_bad_one_are_kept(predictor, data, tmp_path):
    parquet(data / "z.parquet", {f"x{k}": [0.0, float("nan")] for k in range(SIZE)})
    with pytest.raises(DataError, match=r"z\.parquet: inputs\[1\]\[0\]"):
        certify_files(predictor, f"{data}/*.parquet", str(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("z*"))
    parquet(data / "z.parquet", {f"x{k}": [0.0, 1.0] for k in range(SIZE)})
    assert certify_files(predictor, f"{data}/*.parquet", str(tmp_path / "out")).rows == 5002


def test_a_file_that_shrinks_while_it_is_read_is_reported(predictor, data, tmp_path):
    partition = replace(find_partitions(str(data / "a.parquet"))[0], rows=GROUP_ROWS + 1)
    key = ResultsKey(predictor.file.sha256, "2", False)
    with pytest.raises(DataError, match="modified while it was being read"):
        Certification(predictor.file, key, str(tmp_path / "out")).prepare()(partition)
    assert not contents(tmp_path / "out")


def test_the_command_refuses_what_makes_no_sense(data, tmp_path, predictor):
    (tmp_path / "net.onnx").write_bytes(predictor.file.content)
    given = ["certify", str(tmp_path / "net.onnx"), "--inputs", str(data / "a.parquet")]
    for more, reason in [
        (["--engine", "ray"], "requires --out"),
        (["--out", "o", "--certificates", "c"], "cannot be combined with --out"),
        (["--out", "o", "--engine", "spark"], "spark"),
    ]:
        result = CliRunner().invoke(main, [*given, *more])
        assert result.exit_code == 2
        assert reason in result.output


def test_missing_packages_are_reported(predictor, data, tmp_path, monkeypatch):
    for module in ("fsspec.core", "ray"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, module, None)
            with pytest.raises(MissingExtraError, match="tables" if module != "ray" else r"lipcert\[ray\]"):
                certify_files(predictor, str(data / "a.parquet"), str(tmp_path / "out"), engine="ray")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
