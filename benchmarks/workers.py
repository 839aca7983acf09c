"""Throughput of one, two and three workers, each limited to a share of one core.

    python -m benchmarks.workers [--share 0.3] [--seconds 4] [--rounds 3]

On a machine of few cores a second worker takes them from the load, and its gain is not visible. Here a
control group limits each process of the server to that share of a core (as root, with version 1 of Linux's
cpu controller). wrk sends to each number of workers in turns; answers are compared with
those in process before each window.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import click

from benchmarks.certificate_cost import MODELS
from benchmarks.load import check_wrk
from benchmarks.ours import Ours
from benchmarks.running import Running, start
from benchmarks.serving import BODIES, random_inputs, window
from benchmarks.wire import PREDICT, V2_BINARY
from tests.networks import groupsort_net, to_file

CONTROLLER = Path("/sys/fs/cgroup/cpu")
PERIOD = 20_000
"""Period of the limit in µs."""
COUNTS, CONNECTIONS = (1, 2, 3), 64


@contextmanager
def held_to(share: float, pid: int) -> Iterator[None]:
    """Limit a process, with all its threads, to a share of a core."""
    group = CONTROLLER / f"lipcert-{pid}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(int(share * PERIOD)))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for member in (group / "cgroup.procs").read_text().split():
            (CONTROLLER / "cgroup.procs").write_text(member)
        group.rmdir()


@click.command()
@click.option("--share", default=0.3, show_default=True, help="Share of a core for each worker.")
@click.option("--seconds", default=4, show_default=True, help="Duration of a window.")
@click.option("--rounds", default=3, show_default=True, help="Windows of each; their median counts.")
def main(share: float, seconds: int, rounds: int) -> None:
    """Print requests a second."""
    check_wrk()
    if not (CONTROLLER / "cgroup.procs").exists():
        sys.exit(f"{CONTROLLER} does not exist; this takes version 1 of the cpu controller")
    counts = " | ".join(map(str, COUNTS))
    print(f"| {CONNECTIONS} connections, {share:g} of a core a worker | {counts} |")
    print("|---" * (len(COUNTS) + 1) + "|")
    for model, (widths, classes) in MODELS.items():
        content = to_file(groupsort_net(widths, classes))
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            servers: list[Running] = []
            for count in COUNTS:
                server = Ours(f"{count} workers", (PREDICT, V2_BINARY), workers=count)
                servers.append(start(server, content, Path(name) / str(count), Path(name)))
                stack.callback(servers[-1].tree.end)
                servers[-1].wait(random_inputs(model, 1, 1)[0])
                for pid in servers[-1].tree.pids():
                    stack.enter_context(held_to(share, pid))
            inputs = random_inputs(model, 1, BODIES[1])
            for wire in (PREDICT, V2_BINARY):
                taken: list[list[float]] = [[] for _ in servers]
                for column, one in [*zip(taken, servers, strict=True)] * rounds:
                    row = window(one, wire, model, inputs, CONNECTIONS, seconds)
                    column.append(row.requests_per_second)
                rates = list(map(median, taken))
                cells = " | ".join(f"{rate:.0f} ({rate / rates[0]:.2f})" for rate in rates)
                print(f"| {model}, {wire.name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
