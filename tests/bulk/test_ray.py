"""The same on a cluster of Ray: the same files bit for bit, though a worker is killed."""

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

from tests.bulk.test_bulk import contents, eventually, long_work, undisturbed

__all__ = ["long_work", "undisturbed"]

pytest.importorskip("ray", reason="Ray is not installed: pip install 'lipcert[ray]'")

PROGRAM = [sys.executable, "-c", "from lipmodel.cli import main; main()"]


def workers():
    """Processes of Ray that certify."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::" in (content := command.read_bytes()) and b"Worker" in content:
                found.append(int(command.parent.name))
        except OSError:
            continue
    return found


def test_a_worker_that_is_killed_changes_nothing(long_work, undisturbed, tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen(
        [*long_work, str(out), "--engine", "ray", "--json"], stdout=subprocess.PIPE, text=True
    ) as process:
        eventually(lambda: list(out.glob("*.parquet")))
        os.kill(eventually(workers)[0], signal.SIGKILL)
        told = json.loads(process.stdout.read())
    assert (told["rows"], told["partitions"], told["found"]) == (40_000, 40, 0)
    assert contents(out) == undisturbed


def test_a_bad_row_is_reported(tmp_path, predictor, data):
    (tmp_path / "net.onnx").write_bytes(predictor.file.content)
    pq.write_table(pa.table({f"x{k}": [0.0, np.nan] for k in range(4)}), data / "z.parquet")
    source, out = ("--inputs", data / "z.parquet"), ("--out", tmp_path / "o")
    command = [*PROGRAM, "certify", tmp_path / "net.onnx", *source, *out, "--engine", "ray"]
    run = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "z.parquet: inputs[1][0]: nan is not a finite number" in run.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("command", [["evaluate", "--eps", "0.1"], ["audit", "--samples", "600"]])
def test_evaluations_and_audits_are_those_of_one_process(tmp_path, predictor, command):
    (tmp_path / "net.onnx").write_bytes(predictor.file.content)
    rng = np.random.default_rng(0)
    for name, rows in (("a", 2100), ("b", 1300)):
        columns = {f"x{k}": rng.normal(size=rows) for k in range(4)}
        columns["label"] = rng.integers(0, 3, size=rows)
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet", row_group_size=700)
    name, *options = command
    data = ["--data", str(tmp_path / "*.parquet"), "--attack", "270"]
    asked = [*PROGRAM, name, str(tmp_path / "net.onnx"), *data, *options, "--json"]
    alone, together = (
        json.loads(subprocess.check_output([*asked, *more])) for more in ([], ["--engine", "ray"])
    )
    assert alone == together
