"""Evaluations and audits by several processes equal those of one; each failure is one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from lipmodel.audit.report import audit
from lipmodel.bulk.shard_executor import EngineExecutor, ShardWorkload
from lipmodel.bulk.sources import find_source
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.cli import main
from lipmodel.errors import DataError, LipcertError
from lipmodel.evaluate import EvaluationTask, evaluate
from lipmodel.norms import Norm
from lipmodel.threat import BALLS
from tests.bulk.test_bulk import eventually, workers_of
from tests.networks import groupsort_net, to_file

sklearn = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
GROUP_ROWS = 700


def write(path, inputs, labels):
    columns = {f"x{k}": inputs[:, k] for k in range(inputs.shape[1])}
    pq.write_table(pa.table(columns | {"label": labels}), path, row_group_size=GROUP_ROWS)


@pytest.fixture(scope="module")
def model():
    return CertifiedPredictor(to_file(groupsort_net((64, 16, 16), 10)))


@pytest.fixture(scope="module")
def rows(model):
    """The digits twice, of which the network is right about most: their labels are half its own."""
    inputs, labels = sklearn.load_digits(return_X_y=True)
    inputs = (np.tile(inputs, (2, 1)) / 16.0).astype(np.float32)
    labels = np.concatenate([labels, model.predict(inputs[: len(labels)]).radii.label])
    return inputs, labels


@pytest.fixture
def files(rows, tmp_path):
    """A pattern: files of 1, 1,500 and 2,093 rows in groups of 700, none of them a multiple of a batch."""
    inputs, labels = rows
    (tmp_path / "digits").mkdir()
    for name, part in (("a", slice(0, 1)), ("b", slice(1, 1501)), ("c", slice(1501, None))):
        write(tmp_path / "digits" / f"{name}.parquet", inputs[part], labels[part])
    return str(tmp_path / "digits/*.parquet")


def same(one, other):
    """Whether two evaluations are the same to the last sample."""
    assert one.to_dict() == other.to_dict()
    for name in ("labels", "predictions", "radii", "distances"):
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True), name


@pytest.mark.parametrize(("norm", "attacked"), [(Norm.TWO, 1010), (Norm.INF, 0)])
def test_an_evaluation_is_that_of_one_process(model, rows, files, norm, attacked):
    asked = {"threat": norm, "epsilons": [0.0, 0.01, 0.1], "attacked": attacked}
    whole = evaluate(model, *rows, **asked)
    assert 0.1 < whole.certified_accuracy["0.01"] < whole.clean_accuracy < 1.0
    source = find_source(files)
    same(evaluate(model, source.open(), **asked), whole)
    told = []
    executor = EngineExecutor(model.file, source, "local")
    same(evaluate(model, source.open(), **asked, progress=told.append, executor=executor), whole)
    # Batches that parts of files begin in: 0 to 999, 1000, 2000, and 3000; and groups of 1,000 attacked.
    assert len(told) == 4 + -(-attacked // 1000)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_tightened_radii_are_those_of_one_process(model, rows, tmp_path):
    inputs, labels = (part[1797:1822] for part in rows)
    np.save(tmp_path / "x.npy", inputs)
    np.save(tmp_path / "y.npy", labels)
    source = find_source(str(tmp_path / "x.npy"), None, tmp_path / "y.npy")
    executor = EngineExecutor(model.file, source, "local")
    asked = {"tighten": True, "attacked": 22}
    same(evaluate(model, source.open(), **asked, executor=executor), evaluate(model, inputs, labels, **asked))


def test_an_audit_is_that_of_one_process(model, rows, files):
    asked = {"samples": 5000, "attacked": 300, "seed": 3}
    whole = audit(model, inputs=rows[0], **asked)
    assert whole.points["data"] == len(rows[0])
    assert whole.attack.inputs == 300
    assert {pair.extreme_value_estimate for pair in whole.per_pair} != {None}
    source, told = find_source(files), []
    assert audit(model, inputs=source.open(), **asked) == whole
    executor = EngineExecutor(model.file, source, "local")
    assert audit(model, inputs=source.open(), **asked, progress=told.append, executor=executor) == whole
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_an_audit_of_random_points_alone(model):
    asked = {"norm": Norm.ONE, "samples": 600, "attacked": 280, "seed": 1}
    assert audit(model, **asked, executor=EngineExecutor(model.file, None, "local")) == audit(model, **asked)


def test_what_is_found_inside_a_radius_comes_back(model, rows, files):
    """Wrong radii give the same report: bounds are lowered behind the predictor's back."""
    small = CertifiedPredictor(to_file(groupsort_net((64, 16, 16), 10)))
    bounds = small.bounds(Norm.TWO)
    vars(bounds)["bound_per_score_pair"] = bounds.bound_per_score_pair / 20

    def in_turn(task, shards, progress):
        data = find_source(files).open()
        return (task(small, data, shard, progress) for shard in shards)

    asked = {"samples": 300, "attacked": 600}
    whole = audit(small, inputs=rows[0], **asked)
    assert whole.verdict == "refuted"
    assert whole.flips > 100
    assert audit(small, inputs=find_source(files).open(), **asked, executor=in_turn) == whole


def test_the_commands(model, files, tmp_path):
    (tmp_path / "net.onnx").write_bytes(model.file.content)
    for command in (
        ["evaluate", str(tmp_path / "net.onnx"), "--data", files, "--eps", "0.1", "--json"],
        ["audit", str(tmp_path / "net.onnx"), "--data", files, "--samples", "0", "--attack", "5", "--json"],
    ):
        alone, together = (
            CliRunner().invoke(main, command + more, catch_exceptions=False)
            for more in ([], ["--engine", "local"])
        )
        assert alone.exit_code == together.exit_code == 0
        assert json.loads(alone.stdout) == json.loads(together.stdout)


def bad_rows(folder, inputs, labels):
    """Return patterns of files by the message about the second, which has a bad row."""
    for name, column, value in (("nan", 3, np.nan), ("half", 64, 2.5), ("many", 64, 10), ("less", 64, -1)):
        (folder / name).mkdir()
        table = np.column_stack([inputs, labels])
        write(folder / name / "0.parquet", table[:1500, :-1], table[:1500, -1])
        table[1500 + 803, column] = value
        write(folder / name / "1.parquet", table[1500:, :-1], table[1500:, -1])
    return {
        "nan": r"nan/1\.parquet: row 803, column 3 is not a finite number",
        "half": r"half/1\.parquet: labels must be class indices.*not 2\.5 of row 803",
        "many": r"labels must be class indices from 0 to 9, not 10 of row 803 of .*many/1\.parquet",
        "less": r"not -1 of row 803 of .*less/1\.parquet",
    }


def test_a_bad_row_is_reported_with_its_file(model, rows, tmp_path):
    for name, reason in bad_rows(tmp_path, *rows).items():
        source = find_source(str(tmp_path / name / "*.parquet"))
        with pytest.raises(LipcertError, match=reason):
            evaluate(model, source.open())
        with pytest.raises(DataError, match=reason):
            ShardWorkload(model.file, source, EvaluationTask(BALLS[Norm.TWO], False)).prepare()(
                range(2000, 3000)
            )
    executor = EngineExecutor(model.file, source, "local")
    with pytest.raises(DataError, match=reason):
        evaluate(model, source.open(), executor=executor)


def test_files_that_do_not_fit_are_reported(model, rows, tmp_path):
    inputs, labels = rows
    write(tmp_path / "good.parquet", inputs, labels)
    np.save(tmp_path / "x.npy", inputs)
    for name, given, reason in (
        ("*", None, "files of both formats"),
        ("[x]*", tmp_path / "x.npy", "only with one .npy"),
        ("*.nothing", None, "not found"),
    ):
        with pytest.raises(DataError, match=reason):
            find_source(str(tmp_path / name), None, given)
    source = find_source(str(tmp_path / "[x].npy"))
    with pytest.raises(DataError, match="labels are missing"):
        evaluate(model, source.open(), executor=EngineExecutor(model.file, source, "local"))
    write(tmp_path / "narrow.parquet", inputs[:, :5], labels)
    source = find_source(str(tmp_path / "narrow*"))
    with pytest.raises(DataError, match=r"has shape \[1000, 5\]"):
        evaluate(model, source.open(), executor=EngineExecutor(model.file, source, "local"))
    unlabelled = find_source(str(tmp_path / "[x].npy"))
    report = audit(model, inputs=unlabelled.open(), samples=0, attacked=0)
    assert report == audit(model, inputs=inputs, samples=0, attacked=0)


def test_a_file_with_this_very_name_is_no_pattern(rows, tmp_path):
    write(tmp_path / "a[1].parquet", *rows)
    assert find_source(str(tmp_path / "a[1].parquet")).open().rows == len(rows[0])


@pytest.mark.parametrize("victim", ["worker", "interrupt"])
def test_an_end_before_its_time_is_one_line(model, files, tmp_path, victim):
    """Interrupted as a terminal does it: the command and its processes are all sent it, even as they start."""
    (tmp_path / "net.onnx").write_bytes(model.file.content)
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's & mutes it
    program = [sys.executable, "-c", f"{heard}; from lipmodel.cli import main; main()", "evaluate"]
    given = [str(tmp_path / "net.onnx"), "--data", files, "--attack", "3594", "--engine", "local"]
    with subprocess.Popen(
        [*program, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        workers = eventually(lambda: workers_of(process.pid))
        if victim == "worker":
            os.kill(workers[0], signal.SIGKILL)
        else:
            held_back = Path(f"/proc/{workers[0]}/status").read_text().split("SigBlk:")[1].split()[0]
            assert (
                int(held_back, 16) & 1 << signal.SIGINT - 1
            )  # from its first moment on: it would tell a trace
            os.killpg(process.pid, signal.SIGINT)
        told = process.stderr.read()
    status, reason = {"worker": (2, "a process was killed"), "interrupt": (130, "interrupted")}[victim]
    assert process.returncode == status
    assert reason in told
    assert len(told.strip().splitlines()) == 1
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))
