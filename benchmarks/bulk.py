"""Bulk certification: rows a second of both engines against one process in memory; a worker killed.

    python -m benchmarks.bulk --rows 1000000

Rows are of 64 numbers, the model 64-256-256-10, in 64 row groups of 8 files. One process certifies the same
batches in memory, without files; then the engines in turn, each with a worker on each core. Of Ray's one is
killed once half of the parts are there. At the end every file of results is compared byte for byte.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.evaluate import BATCH_ROWS
from tests.networks import groupsort_net, to_file

WIDTH, FILES, GROUPS = 64, 8, 8
IN_MEMORY_ROWS = 200_000


def write_rows(folder: Path, rows: int) -> None:
    """Write the files, one at a time in memory."""
    rng = np.random.default_rng(0)
    for number in range(FILES):
        values = rng.normal(size=(rows // FILES, WIDTH)).astype(np.float32)
        table = pa.table({f"x{k}": values[:, k] for k in range(WIDTH)})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=-(-len(values) // GROUPS))


def in_memory(content: bytes) -> float:
    """Return the rows a second of one process."""
    predictor = CertifiedPredictor(content)
    rows = np.random.default_rng(0).normal(size=(IN_MEMORY_ROWS, WIDTH)).astype(np.float32)
    predictor.predict(rows[:BATCH_ROWS])
    begun = time.perf_counter()
    for start in range(0, len(rows), BATCH_ROWS):
        predictor.predict(rows[start : start + BATCH_ROWS])
    return len(rows) / (time.perf_counter() - begun)


def start(folder: Path, out: Path, engine: str) -> subprocess.Popen[str]:
    """Start the command that certifies the files."""
    program = [sys.executable, "-c", "from lipmodel.cli import main; main()", "certify"]
    given = ["--inputs", str(folder / "*.parquet"), "--out", str(out), "--engine", engine, "--json"]
    return subprocess.Popen(
        [*program, str(folder / "net.onnx"), *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def ray_workers() -> list[int]:
    """Return the ids of Ray's worker processes."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"ray::" in (content := command.read_bytes()) and b"Worker" in content:
                found.append(int(command.parent.name))
    return found


def run(folder: Path, out: Path, engine: str, *, kill: bool = False) -> float:
    """Return the seconds from the start to the end of the command.

    Raises:
        RuntimeError: the command failed, or left partitions out.
    """
    begun = time.perf_counter()
    with start(folder, out, engine) as process:
        while kill and process.poll() is None:
            if len(list(out.glob("*.parquet"))) >= FILES * GROUPS // 2 and (workers := ray_workers()):
                os.kill(workers[0], signal.SIGKILL)
                click.echo(f"killed one of {len(workers)} workers", err=True)
                break
            time.sleep(0.02)
        output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(f"{engine} ended with status {process.returncode}")
    summary = json.loads(output)
    if (summary["partitions"], summary["found"]) != (FILES * GROUPS, 0):
        raise RuntimeError(f"{engine} reported {summary}")
    return time.perf_counter() - begun


def check(out: Path, other: Path, rows: int) -> None:
    """Check that two folders have the same bytes and one result for each row.

    Raises:
        RuntimeError: they differ, or a row has no result or several.
    """
    names = sorted(path.name for path in out.iterdir())
    if names != sorted(path.name for path in other.iterdir()) or len(names) != FILES * GROUPS:
        raise RuntimeError("not the same files")
    for name in names:
        if (out / name).read_bytes() != (other / name).read_bytes():
            raise RuntimeError(f"{name} differs")
    table = pq.read_table(out, columns=["file", "row"])
    table = table.set_column(0, "file", table["file"].cast(pa.string()))
    distinct = table.group_by(["file", "row"]).aggregate([])
    if (len(table), len(distinct)) != (rows, rows):
        raise RuntimeError(f"{len(table)} results, {len(distinct)} different, of {rows} rows")


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(FILES * GROUPS))
@click.option("--engine", "engines", multiple=True, default=["local", "ray"], show_default=True)
def main(rows: int, engines: tuple[str, ...]) -> None:
    """Print the table."""
    rows -= rows % FILES
    content = to_file(groupsort_net((WIDTH, 256, 256), 10))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net.onnx").write_bytes(content)
        write_rows(folder, rows)
        limit = in_memory(content)
        print("| engine | s | rows/s | of one process in memory |\n|---|---|---|---|")
        print(f"| one process, in memory | {rows / limit:.1f} | {limit:,.0f} | 1.00 |", flush=True)
        runs = {engine: engine for engine in engines}
        runs |= {"ray, a worker killed": "killed"} if "ray" in engines else {}
        for title, out in runs.items():
            kill = out == "killed"
            seconds = run(folder, folder / out, "ray" if kill else out, kill=kill)
            speed = rows / seconds
            print(f"| {title} | {seconds:.1f} | {speed:,.0f} | {speed / limit:.2f} |", flush=True)
        if "ray" in engines:
            for engine in ("ray", "killed"):
                check(folder / engines[0], folder / engine, rows)
            print(f"\nAll {rows:,} rows have one result, and the files are the same byte for byte.")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    print(f"Most memory of one process: {peak:.0f} MiB.")


if __name__ == "__main__":
    main()
