"""Requests a second, latency, CPU and memory of ``lipserve`` and of its peers, in one run.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.serving --peers FOLDER --install --json serving.json
    python -m benchmarks.serving --peers FOLDER --only 'c16 .*(lipserve|Triton).* binary' --seconds 1
    python -m benchmarks.serving --baseline ../old --seconds 1 --rounds 10

All servers of a model run at the same time, but all except the one measured are stopped (SIGSTOP) and take
no time; a round visits each load with one server after another, so that other load on the machine falls on
all alike. Before each window answers at that load are compared with those computed in process: ours bit
for bit, label and radius too, a peer's scores within 1e-5. Ours runs with authentication, validation and
metrics. Everything has one onnxruntime thread and one worker, unless it says otherwise. wrk sends different
inputs in turn from the same machine. With ``--baseline`` the servers are an older commit's and this tree's:
their CPU for each request is compared. They run on one core, and wrk on another.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
import httpx
import numpy as np

from benchmarks import alternating
from benchmarks.certificate_cost import MODELS, certificate_cost, table
from benchmarks.load import check_wrk, put_load
from benchmarks.ours import OURS, Ours
from benchmarks.peers import PEERS
from benchmarks.running import Running, Server, start
from benchmarks.serving_tables import Row, against_one, figures, load_name, medians, ratios
from benchmarks.tables import write
from benchmarks.wire import PREDICT, V2_BINARY, Array, Wire
from tests.networks import groupsort_net, to_file

LOADS = ((1, 1), (1, 16), (1, 64), (64, 4))
"""Inputs in a request, and requests at a time."""
BODIES = {1: 16, 64: 4}
"""Different ones, by inputs in each."""


def window(
    running: Running, wire: Wire, model: str, inputs: list[Array], connections: int, seconds: int
) -> Row:
    """Check the answers, then measure one window.

    Raises:
        RuntimeError: an answer is wrong, or a request failed.
    """
    running.check(wire, inputs, connections)
    server, tree = running.server, running.tree
    requests = [wire.write(x) for x in inputs]
    headers, bodies = running.headers | requests[0][0], [body for _, body in requests]
    before = tree.cpu_seconds()
    load = put_load(running.url, wire.path, headers, bodies, connections=connections, seconds=seconds)
    return Row(
        model,
        len(inputs[0]),
        connections,
        server.name,
        server.kind,
        wire.name,
        wire.binary,
        load.requests / load.seconds,
        load.p50_ms,
        load.p99_ms,
        1e6 * (tree.cpu_seconds() - before) / load.requests,
        tree.resident_bytes() / 2**20,
    )


def against(
    baseline: Path, model: str, content: bytes, seconds: int, rounds: int, only: str
) -> alternating.Pairs:
    """Return µs of CPU for each request (before, now) of every round, at 16 and 64 requests at a time.

    Only of windows with names that match ``only``, like '2-64-64-1 c16 v2 binary'.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])  # which the servers inherit
    started: dict[str, Running] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, variables in alternating.environments(baseline).items():
                server = Ours(name, (PREDICT, V2_BINARY), environment=variables)
                started[name] = start(server, content, Path(folder) / name, Path())
            os.sched_setaffinity(0, cores[-1:])
            inputs = random_inputs(model, 1, BODIES[1])
            for one in started.values():
                one.wait(inputs[0])
                one.tree.signal(signal.SIGSTOP)

            def measure(name: str, connections: int, wire: Wire) -> dict[str, float]:
                one = started[name]
                one.tree.signal(signal.SIGCONT)
                row = window(one, wire, model, inputs, connections, seconds)
                one.tree.signal(signal.SIGSTOP)
                return {f"{model} c{connections} {wire.name}": row.cpu_us}

            found: alternating.Pairs = {}
            for connections, wire in itertools.product((16, 64), (PREDICT, V2_BINARY)):
                if re.search(only, f"{model} c{connections} {wire.name}"):
                    measured = partial(measure, connections=connections, wire=wire)
                    found |= alternating.in_rounds(measured, rounds)
            return found
        finally:
            for one in started.values():
                one.tree.end()
            os.sched_setaffinity(0, cores)


class Run:
    """Measurement of all servers, and the reasons for which servers or windows are left out."""

    def __init__(self, peers: Path, seconds: int, rounds: int, only: str | None) -> None:
        self.left_out: dict[str, str] = {}
        self._peers, self._seconds, self._rounds = peers, seconds, rounds
        self._only = re.compile(only or "")

    def install(self) -> None:
        """Make the environments of the selected peers."""
        for peer in PEERS:
            if any(self._wanted(model, load, peer) for model in MODELS for load in LOADS):
                progress(f"installing {peer.name}")
                if reason := peer.install(self._peers):
                    self.left_out[peer.name] = reason

    def _wanted(self, model: str, load: tuple[int, int], server: Server) -> list[Wire]:
        """Return the selected wires of a server at a load."""
        return [wire for wire in server.wires if self._only.search(title(model, load, server, wire))]

    def measure(self, model: str, content: bytes) -> Iterator[Row]:
        """Yield the windows of one model."""
        with tempfile.TemporaryDirectory() as folder:
            started: list[Running] = []
            try:
                started.extend(self._start_all(model, content, Path(folder)))
                running = [one for one in started if self._answers(one, random_inputs(model, 1, 1)[0])]
                for _ in range(self._rounds):
                    for load in LOADS:
                        for one in running:
                            yield from self._visit(one, model, load)
            finally:
                for one in started:
                    one.tree.end()

    def _start_all(self, model: str, content: bytes, folder: Path) -> Iterator[Running]:
        for server in (*OURS, *PEERS):
            if server.name not in self.left_out and any(self._wanted(model, load, server) for load in LOADS):
                progress(f"{model}: starting {server.name}")
                try:
                    yield start(server, content, folder / server.name, self._peers)
                except RuntimeError as error:
                    self._leave_out(server.name, error)

    def _answers(self, one: Running, x: Array) -> bool:
        """Return True once a server answers, and pause it; False if it does not."""
        try:
            one.wait(x)
        except RuntimeError as error:
            self._leave_out(one.server.name, error)
            return False
        one.tree.signal(signal.SIGSTOP)
        return True

    def _visit(self, one: Running, model: str, load: tuple[int, int]) -> Iterator[Row]:
        rows, connections = load
        inputs = random_inputs(model, rows, BODIES[rows])
        one.tree.signal(signal.SIGCONT)
        for wire in self._wanted(model, load, one.server):
            name = title(model, load, one.server, wire)
            progress(name)
            try:
                yield window(one, wire, model, inputs, connections, self._seconds)
            except (RuntimeError, httpx.HTTPError) as error:
                self._leave_out(name, error)
        one.tree.signal(signal.SIGSTOP)

    def _leave_out(self, name: str, error: Exception) -> None:
        self.left_out[name] = f"{type(error).__name__}: {error}"
        progress(f"left out: {name}: {self.left_out[name]}")


def title(model: str, load: tuple[int, int], server: Server, wire: Wire) -> str:
    """Return the name of a window."""
    return f"{model} {load_name(*load)} {server.name} {wire.name}"


def random_inputs(model: str, rows: int, count: int) -> list[Array]:
    """Return arrays (rows, d) in float32, the same every time."""
    rng, size = np.random.default_rng(0), MODELS[model][0][0]
    return [rng.random((rows, size), dtype=np.float32) for _ in range(count)]


def progress(text: str) -> None:
    """Print progress to standard error."""
    click.echo(text, err=True)


@click.command()
@click.option("--peers", type=Path, help="Folder of the peers' environments.")
@alternating.baseline_option
@click.option("--install", is_flag=True, help="Make missing environments of peers.")
@click.option("--seconds", default=3, show_default=True, help="Duration of a window.")
@click.option("--rounds", default=1, show_default=True, help="Windows of each cell; their median counts.")
@click.option(
    "--only",
    help="Regular expression; a window's name is like '2-64-64-1 c16 lipserve v2 binary', "
    "with --baseline like '2-64-64-1 c16 v2 binary'.",
)
@click.option("--json", "output", type=Path, help="File for every window.")
def main(
    peers: Path | None,
    baseline: Path | None,
    install: bool,
    seconds: int,
    rounds: int,
    only: str | None,
    output: Path | None,
) -> None:
    """Print the tables, or the ratios to a baseline."""
    check_wrk()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers, which are stopped, are ended
    if baseline is not None:
        found: alternating.Pairs = {}
        for model, (widths, classes) in MODELS.items():
            content = to_file(groupsort_net(widths, classes))
            found |= against(baseline, model, content, seconds, rounds, only or "")
        print(alternating.table(found, "µs of CPU for each request"))
        return
    if peers is None:
        raise click.UsageError("--peers names a folder of environments, or --baseline a worktree")
    run, rows, costs = Run(peers, seconds, rounds, only), [], []
    if install:
        run.install()
    for model, (widths, classes) in MODELS.items():
        content = to_file(groupsort_net(widths, classes))
        rows += run.measure(model, content)
        if only is None:
            progress(f"{model} in process")
            costs += certificate_cost(model, content)
    windows, in_process = (list(map(asdict, found)) for found in (rows, costs))
    write(output, {"windows": windows, "in_process": in_process, "left_out": run.left_out})
    middle = medians(rows)
    parts = [figures(middle), ratios(middle), *(against_one(middle, one.name) for one in OURS[1:])]
    parts += [table(costs)] if costs else []
    print("\n\n".join(filter(None, parts)))
    for name, reason in run.left_out.items():
        print(f"\nLeft out: {name}: {reason}")


if __name__ == "__main__":
    main()
