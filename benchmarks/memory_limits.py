"""Every kind of request at its documented limit, all at once, to a service with 512 MiB of memory.

    python -m benchmarks.memory_limits [--mib 512] [--seconds 30] [--only TEXT] [--source DIR]

The service runs in a memory cgroup (version 1 or 2) where one can be made, which takes root; without a cgroup
only its peak is measured. ``--source`` runs another checkout of it. The clients have no credentials and send:
nothing, on connections that stay open; requests for the page's largest file, which is not read; bodies of
16 MiB that never end, compressed ones of 16 KB that expand to 16 MiB; predictions of 10,000 rows, whose
answers are not read; JSON of millions of values; archives of a million members, labels of twenty millions;
models and forms of 250 MiB. ``--only`` selects requests by a part of their name. Meanwhile one client asks
for small predictions. Exit status 1 where the service is killed, or refuses a request with a status other
than 413, 422, 429 and 503.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import shutil
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

from benchmarks.alternating import environment
from benchmarks.lipserve import EXAMPLES, ROOT, Lipserve, raw_request
from benchmarks.processes import resident_bytes
from benchmarks.wire import JSON

PREDICT = "/v1/models/two-moons/predict"
EVALUATIONS = "/v1/models/two-moons/evaluations"
MIB = 2**20
BINARY = {"Content-Type": "application/octet-stream"}
GZIP = {**JSON, "Content-Encoding": "gzip"}
PIECE = 2**18
SMALL = b'{"inputs": [[0.5, 0.25]]}'
REFUSALS = {200, 202, 413, 422, 429, 503}


@contextmanager
def memory_cgroup(limit: int) -> Iterator[Path | None]:
    """Make a cgroup with a limit in bytes; yield None where that is not permitted."""
    root = Path("/sys/fs/cgroup")
    old = (root / "memory").is_dir()
    folder = (root / "memory" if old else root) / f"lipserve-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit))
    except OSError as error:
        click.echo(f"no cgroup can be made ({error}): only peaks are measured")
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


def usage(folder: Path) -> dict[str, int]:
    """Return resident bytes of a cgroup's processes, and the number of processes killed."""
    found = {}
    for name in ("memory.stat", "memory.oom_control", "memory.events"):
        with suppress(OSError):
            lines = (folder / name).read_text().splitlines()
            found |= {key: int(value) for key, _, value in (line.partition(" ") for line in lines)}
    return {"resident": found.get("total_rss", found.get("anon", 0)), "killed": found.get("oom_kill", 0)}


def form(content: bytes) -> bytes:
    """Return a request for an evaluation of a file."""
    head = b'--x\r\nContent-Disposition: form-data; name="data"; filename="a"\r\n\r\n'
    body = head + content + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Prefer": "wait=1"}
    return raw_request(EVALUATIONS, body, headers)


def million_members() -> bytes:
    """Return a zip archive with a million members in its directory."""
    entry = b"PK\1\2" + bytes(24) + (1).to_bytes(2, "little") + bytes(16) + b"a"
    directory = entry * 1_000_000
    sizes = len(directory).to_bytes(4, "little") + (30).to_bytes(4, "little")
    return b"PK\3\4" + bytes(26) + directory + b"PK\5\6" + bytes(4) + b"\xff\xff" * 2 + sizes + bytes(2)


def large_label() -> bytes:
    """Return an archive of two rows, one with a label of twenty millions."""
    file = io.BytesIO()
    np.savez_compressed(file, inputs=np.zeros((2, 2)), labels=np.array([0, 20_000_000]))
    return file.getvalue()


def attacks() -> dict[str, tuple[int, bytes, bool]]:
    """Return, by name: connections at a time, the bytes that each sends, and True if it reads the answer."""
    rows = json.dumps({"inputs": [[0.5, 0.25]] * 10_000}).encode()
    blank = b" " * (16 * MIB - 100) + SMALL
    library = "GET /web/plotly.js HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: {}\r\n\r\n"
    packed, large = gzip.compress(blank), bytes(250 * MIB)
    numbers = b'{"inputs": [[' + b"0," * 8_000_000 + b"0]]}"
    outputs = b'{"inputs":[],"outputs":[' + b"1," * 1_000_000 + b"1]}"
    members = b"{" + b",".join(b'"%x":0' % i for i in range(1_200_000)) + b"}"
    return {
        "silent": (300, b"", False),
        "file, gzip, not taken": (150, library.format("gzip").encode(), False),
        "file, plain, not taken": (150, library.format("identity").encode(), False),
        "body without its end": (40, raw_request(PREDICT, blank, JSON)[:-1], False),
        "body without its end, another route": (40, raw_request(EVALUATIONS, blank, JSON)[:-1], False),
        "compressed body": (4, raw_request(PREDICT, packed, GZIP), True),
        "compressed body of a job": (4, raw_request(EVALUATIONS, packed, GZIP), True),
        "answer of 10,000 rows, not taken": (40, raw_request(PREDICT, rows, JSON), False),
        "answer of 10,000 rows": (4, raw_request(PREDICT, rows, JSON), True),
        "8 million numbers": (4, raw_request(PREDICT, numbers, JSON), True),
        "a million members": (4, raw_request(PREDICT, members, JSON), True),
        "a million outputs": (2, raw_request("/v2/models/two-moons/infer", outputs, JSON), True),
        "archive of a million members": (4, form(million_members()), True),
        "label of twenty millions": (4, form(large_label()), True),
        "form of 250 MiB": (4, form(large), True),
        "model of 250 MiB": (2, raw_request("/v1/models/a", large, BINARY, "PUT"), True),
    }  # fmt: skip


class Clients:
    """The clients of one run, and the statuses of their requests (0: the connection was closed)."""

    def __init__(self, port: int, end: float) -> None:
        self.statuses: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.seconds: list[float] = []
        self._port, self._end = port, end

    def _left(self) -> float:
        return max(0.1, self._end - time.monotonic())

    async def attack(self, name: str, sent: bytes, *, reads: bool) -> None:
        """Send the same bytes on one connection after another."""
        while time.monotonic() < self._end:
            status = 0
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=4096)
            except OSError:
                self.statuses[name][-1] += 1
                await asyncio.sleep(0.2)
                continue
            try:
                with suppress(OSError):
                    for start in range(0, len(sent), PIECE):
                        writer.write(sent[start : start + PIECE])
                        await asyncio.wait_for(writer.drain(), self._left())
                if reads or name.startswith("body"):
                    with suppress(OSError, ValueError, IndexError):
                        line = await asyncio.wait_for(reader.readline(), self._left())
                        status = int(line.split()[1])
                else:
                    await asyncio.sleep(max(0.0, self._end - time.monotonic()))
            except TimeoutError:
                status = 1
            finally:
                writer.transport.abort()
            self.statuses[name][status] += 1
            await asyncio.sleep(0.5)

    async def predict(self) -> None:
        """Ask for a small prediction, ten times a second, each on a new connection."""
        request = raw_request(PREDICT, SMALL, {**JSON, "Connection": "close"})
        while time.monotonic() < self._end:
            begun, status = time.perf_counter(), 0
            with suppress(OSError, ValueError, IndexError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(request)
                status = int((await asyncio.wait_for(reader.read(), 60)).split()[1])
                writer.close()
            self.statuses["small prediction"][status] += 1
            self.seconds.append(time.perf_counter() - begun)
            await asyncio.sleep(0.1)


async def run(port: int, seconds: float, only: str) -> Clients:
    """Run all clients for so many seconds."""
    kinds = {name: kind for name, kind in attacks().items() if only in name}
    clients = Clients(port, time.monotonic() + seconds)
    tasks = [clients.predict()]
    for name, (count, sent, reads) in kinds.items():
        tasks += [clients.attack(name, sent, reads=reads) for _ in range(count)]
    await asyncio.gather(*tasks)
    return clients


class Peaks(threading.Thread):
    """The maximum of resident bytes: of a process, and of all processes in a cgroup."""

    def __init__(self, pid: int, cgroup: Path | None) -> None:
        super().__init__(daemon=True)
        self._pid, self._cgroup = pid, cgroup
        self.own = self.all = 0

    def run(self) -> None:
        """Measure every 20 ms."""
        while True:
            self.own = max(self.own, resident_bytes(self._pid))
            self.all = max(self.all, usage(self._cgroup)["resident"] if self._cgroup else 0)
            time.sleep(0.02)


@click.command(help=__doc__)
@click.option("--mib", default=512)
@click.option("--seconds", default=30.0)
@click.option("--only", default="")
@click.option("--source", default=ROOT, type=click.Path(path_type=Path))
def main(mib: int, seconds: float, only: str, source: Path) -> None:
    """Print the statuses of all requests, the peaks of memory, and the latency of small predictions."""
    with memory_cgroup(mib * MIB) as cgroup, tempfile.TemporaryDirectory() as name:
        models = Path(name) / "models"
        shutil.copytree(EXAMPLES, models)
        flags = ["--uploads", "--job-bytes", mib * MIB // 2]
        enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(cgroup / "cgroup.procs")] if cgroup else []
        with Lipserve(models, *flags, environment=environment(source), wrapper=enter) as server:
            server.wait_ready()
            click.echo(server.last_line())
            before = resident_bytes(server.root.pid)
            peaks = Peaks(server.root.pid, cgroup)
            peaks.start()
            clients = asyncio.run(run(server.port, seconds, only))
            alive = server.running
            killed = usage(cgroup)["killed"] if cgroup else 0
            time.sleep(10)
            after = resident_bytes(server.root.pid)
    for kind, counts in clients.statuses.items():
        shown = {-1: "refused", 0: "closed", 1: "waiting at the end"}
        click.echo(f"{kind:38} " + ", ".join(f"{shown.get(s, s)}: {n}" for s, n in sorted(counts.items())))
    click.echo(f"{'alive' if alive else 'DEAD'}; {killed} processes killed for memory")
    sizes = [size // MIB for size in (before, peaks.own, peaks.all, after)]
    click.echo("resident MiB: {} before, {} at most, {} with jobs and checks, {} after".format(*sizes))
    if clients.seconds:
        times = np.quantile(clients.seconds, [0.5, 0.99])
        click.echo(f"small predictions: median {1000 * times[0]:.0f} ms, p99 {1000 * times[1]:.0f} ms")
    odd = {s for counts in clients.statuses.values() for s in counts} - REFUSALS - {-1, 0, 1}
    sys.exit(0 if alive and not killed and not odd else 1)


if __name__ == "__main__":
    main()
