"""Everything that anybody may send at its documented limit, at once, to a service with 512 MiB of memory.

    python -m benchmarks.memory_limits [--mib 512] [--seconds 30] [--only TEXT] [--source DIR]

The service runs in a memory cgroup (version 1 or 2) where one may be made, which takes root; without one
its peak is measured and nothing kills it. ``--source`` runs another checkout of it. It needs no credential
and is sent: nothing, on connections that stay; requests for the page's largest file, which is not taken;
bodies of 16 MiB that never end, compressed ones of 16 KB that are 16 MiB; predictions of 10,000 rows, whose
answers are not taken; JSON of millions of values; archives of a million members, labels of twenty millions;
models and forms of 250 MiB. ``--only`` sends what has that text in its name. Meanwhile one client asks for
small predictions. To be killed is the failure; what is refused must be 413, 422, 429 or 503.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import numpy as np

PORT = 8017
PREDICT = "/v1/models/two-moons/predict"
EVALUATIONS = "/v1/models/two-moons/evaluations"
MIB = 2**20
BINARY = "application/octet-stream"
PIECE = 2**18
SMALL = b'{"inputs": [[0.5, 0.25]]}'
REFUSALS = {200, 202, 413, 422, 429, 503}


@contextmanager
def memory_cgroup(limit: int) -> Iterator[Path | None]:
    """A new cgroup with that limit; None where none may be made."""
    root = Path("/sys/fs/cgroup")
    old = (root / "memory").is_dir()
    folder = (root / "memory" if old else root) / f"lipserve-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit))
    except OSError as error:
        click.echo(f"no cgroup can be made ({error}): peaks are measured alone")
        yield None
        return
    try:
        yield folder
    finally:
        for _ in range(100):  # until its processes are gone
            with suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.1)


def told(folder: Path) -> dict[str, int]:
    """Resident bytes of the cgroup's processes, and how many were killed."""
    found = {}
    for name in ("memory.stat", "memory.oom_control", "memory.events"):
        with suppress(OSError):
            lines = (folder / name).read_text().splitlines()
            found |= {key: int(value) for key, _, value in (line.partition(" ") for line in lines)}
    return {"resident": found.get("total_rss", found.get("anon", 0)), "killed": found.get("oom_kill", 0)}


def resident(pid: int) -> int:
    """Bytes of one process."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
    return 0


def post(path: str, body: bytes, *lines: str, kind: str = "application/json", method: str = "POST") -> bytes:
    """A whole request."""
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", *lines]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def form(content: bytes) -> bytes:
    """A request for an evaluation of that file."""
    head = b'--x\r\nContent-Disposition: form-data; name="data"; filename="a"\r\n\r\n'
    body = head + content + b"\r\n--x--\r\n"
    return post(EVALUATIONS, body, "Prefer: wait=1", kind="multipart/form-data; boundary=x")


def million_members() -> bytes:
    """A zip archive whose directory has so many."""
    entry = b"PK\1\2" + bytes(24) + (1).to_bytes(2, "little") + bytes(16) + b"a"
    directory = entry * 1_000_000
    size = len(directory).to_bytes(4, "little")
    return (
        b"PK\3\4"
        + bytes(26)
        + directory
        + b"PK\5\6"
        + bytes(4)
        + b"\xff\xff" * 2
        + size
        + (30).to_bytes(4, "little")
        + bytes(2)
    )


def large_label() -> bytes:
    """An archive of two rows."""
    file = io.BytesIO()
    np.savez_compressed(file, inputs=np.zeros((2, 2)), labels=np.array([0, 20_000_000]))
    return file.getvalue()


def attacks() -> dict[str, tuple[int, bytes, bool]]:
    """By what it is: how many connections at a time, what each sends, and whether it reads the answer."""
    rows = json.dumps({"inputs": [[0.5, 0.25]] * 10_000}).encode()
    blank = b" " * (16 * MIB - 100) + SMALL
    library = "GET /web/plotly.js HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: {}\r\n\r\n"
    packed, large = gzip.compress(blank), bytes(250 * MIB)
    outputs = b'{"inputs":[],"outputs":[' + b"1," * 1_000_000 + b"1]}"
    members = b"{" + b",".join(b'"%x":0' % i for i in range(1_200_000)) + b"}"
    return {
        "silent": (300, b"", False),
        "file, gzip, not taken": (150, library.format("gzip").encode(), False),
        "file, plain, not taken": (150, library.format("identity").encode(), False),
        "body without its end": (40, post(PREDICT, blank)[:-1], False),
        "body without its end, another route": (40, post(EVALUATIONS, blank)[:-1], False),
        "compressed body": (4, post(PREDICT, packed, "Content-Encoding: gzip"), True),
        "compressed body of a job": (4, post(EVALUATIONS, packed, "Content-Encoding: gzip"), True),
        "answer of 10,000 rows, not taken": (40, post(PREDICT, rows), False),
        "answer of 10,000 rows": (4, post(PREDICT, rows), True),
        "8 million numbers": (4, post(PREDICT, b'{"inputs": [[' + b"0," * 8_000_000 + b"0]]}"), True),
        "a million members": (4, post(PREDICT, members), True),
        "a million outputs": (2, post("/v2/models/two-moons/infer", outputs), True),
        "archive of a million members": (4, form(million_members()), True),
        "label of twenty millions": (4, form(large_label()), True),
        "form of 250 MiB": (4, form(large), True),
        "model of 250 MiB": (2, post("/v1/models/a", large, kind=BINARY, method="PUT"), True),
    }  # fmt: skip


class Outcomes:
    """Statuses by what was sent; 0 where the connection ended without one."""

    def __init__(self) -> None:
        self.statuses: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.seconds: list[float] = []


async def attack(name: str, sent: bytes, *, reads: bool, end: float, outcomes: Outcomes) -> None:
    """Send the same on one connection after another."""
    while time.monotonic() < end:
        status = 0
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT, limit=4096)
        except OSError:
            outcomes.statuses[name][-1] += 1
            await asyncio.sleep(0.2)
            continue
        try:
            with suppress(OSError):
                for start in range(0, len(sent), PIECE):
                    writer.write(sent[start : start + PIECE])
                    await asyncio.wait_for(writer.drain(), max(0.1, end - time.monotonic()))
            if reads or name.startswith("body"):
                with suppress(OSError, ValueError, IndexError):
                    line = await asyncio.wait_for(reader.readline(), max(0.1, end - time.monotonic()))
                    status = int(line.split()[1])
            else:
                await asyncio.sleep(max(0.0, end - time.monotonic()))
        except TimeoutError:
            status = 1
        finally:
            writer.transport.abort()
        outcomes.statuses[name][status] += 1
        await asyncio.sleep(0.5)


async def honest(end: float, outcomes: Outcomes) -> None:
    """Ask for a small prediction, ten times a second, each on a connection of its own."""
    request = post(PREDICT, SMALL, "Connection: close")
    while time.monotonic() < end:
        begun, status = time.perf_counter(), 0
        with suppress(OSError, ValueError, IndexError):
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
            writer.write(request)
            status = int((await asyncio.wait_for(reader.read(), 60)).split()[1])
            writer.close()
        outcomes.statuses["small prediction"][status] += 1
        outcomes.seconds.append(time.perf_counter() - begun)
        await asyncio.sleep(0.1)


async def run(seconds: float, only: str) -> Outcomes:
    """All of it."""
    kinds = {name: kind for name, kind in attacks().items() if only in name}
    outcomes, end = Outcomes(), time.monotonic() + seconds
    tasks = [honest(end, outcomes)]
    for name, (count, sent, reads) in kinds.items():
        tasks += [attack(name, sent, reads=reads, end=end, outcomes=outcomes) for _ in range(count)]
    await asyncio.gather(*tasks)
    return outcomes


class Peaks(threading.Thread):
    """The most that a process, and all in a cgroup, had resident."""

    def __init__(self, pid: int, cgroup: Path | None) -> None:
        super().__init__(daemon=True)
        self._pid, self._cgroup = pid, cgroup
        self.own = self.all = 0

    def run(self) -> None:
        """Look every 20 ms."""
        while True:
            self.own = max(self.own, resident(self._pid))
            self.all = max(self.all, told(self._cgroup)["resident"] if self._cgroup else 0)
            time.sleep(0.02)


@click.command(help=__doc__)
@click.option("--mib", default=512)
@click.option("--seconds", default=30.0)
@click.option("--only", default="")
@click.option("--source", default=Path(__file__).parents[1], type=click.Path(path_type=Path))
def main(mib: int, seconds: float, only: str, source: Path) -> None:
    """Print what became of it."""
    with memory_cgroup(mib * MIB) as cgroup, tempfile.TemporaryDirectory() as name:
        models = Path(name) / "models"
        models.mkdir()
        for file in (Path(__file__).parents[1] / "examples" / "models").glob("*.onnx"):
            (models / file.name).write_bytes(file.read_bytes())
        flags = ["--models", models, "--port", PORT, "--uploads", "--job-bytes", mib * MIB // 2]
        command = [sys.executable, "-m", "service", *map(str, flags)]
        if cgroup is not None:
            command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(cgroup / "cgroup.procs"), *command]
        with subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(source)},
            cwd=name,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                assert process.stdout is not None
                click.echo(process.stdout.readline().decode().strip())
                before = resident(process.pid)
                peaks = Peaks(process.pid, cgroup)
                peaks.start()
                outcomes = asyncio.run(run(seconds, only))
                alive = process.poll() is None
                killed = told(cgroup)["killed"] if cgroup else 0
                time.sleep(10)
                after = resident(process.pid)
            finally:
                process.kill()
    for what, counts in outcomes.statuses.items():
        shown = {-1: "refused", 0: "closed", 1: "waiting at the end"}
        click.echo(f"{what:38} " + ", ".join(f"{shown.get(s, s)}: {n}" for s, n in sorted(counts.items())))
    click.echo(f"{'alive' if alive else 'DEAD'}; {killed} processes killed for memory")
    sizes = [size // MIB for size in (before, peaks.own, peaks.all, after)]
    click.echo("resident MiB: {} before, {} at most, {} with jobs and checks, {} after".format(*sizes))
    if outcomes.seconds:
        times = np.quantile(outcomes.seconds, [0.5, 0.99])
        click.echo(f"small predictions: median {1000 * times[0]:.0f} ms, p99 {1000 * times[1]:.0f} ms")
    odd = {s for counts in outcomes.statuses.values() for s in counts} - REFUSALS - {-1, 0, 1}
    sys.exit(0 if alive and not killed and not odd else 1)


if __name__ == "__main__":
    main()
