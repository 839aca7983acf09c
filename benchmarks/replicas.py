"""Replicas behind the balancer of ``deploy/balancer``: throughput, one killed, models and replicas replaced.

    python -m benchmarks.replicas [--seconds 5] [--clients 16]

HAProxy (apt-get install haproxy) runs with the configuration of the compose file, except for the addresses.
Replicas share one folder of models and, given --database, one PostgreSQL. Throughput is measured by wrk, in
turns of the configurations. During the changes clients keep their connections and compare every number of
each answer with those that one of the two models gives in process: answers that mix them and statuses other
than 200 are counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import signal
import statistics
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import click
import httpx
import numpy as np

from benchmarks.lipserve import ROOT, START_SECONDS, Lipserve, clients
from benchmarks.load import check_wrk, put_load
from benchmarks.ours import Ours
from benchmarks.processes import Tree, free_port
from benchmarks.wire import PREDICT, V2_BINARY
from tests.networks import groupsort_net, to_file

CONFIGURATION = ROOT / "deploy" / "balancer" / "haproxy.cfg"
WIDTHS, SCORES, ROWS = (784, 512, 512), 10, 4
ROUNDS = 3


def replica(models: Path, number: int, *flags: object) -> Lipserve:
    """Start a server with a state folder of its own."""
    return Lipserve(models, "--state", models.with_name(f"state{number}"), "--drain-seconds", 3, *flags)


def balancer(folder: Path, replicas: list[Lipserve]) -> tuple[Tree, str]:
    """Start HAProxy in front of replicas; return its processes and its URL."""
    port = free_port()
    text = CONFIGURATION.read_text()
    text = re.sub(r"(?s)resolvers docker\n.*?\n\n", "", text)
    text = text.replace("bind :8000", f"bind 127.0.0.1:{port}")
    servers = "\n".join(f"    server r{server.port} 127.0.0.1:{server.port}" for server in replicas)
    text, count = re.subn(r"    server-template .*", servers, text)
    if count != 1:
        raise RuntimeError(f"{CONFIGURATION} has {count} lines of server-template; 1 is expected")
    path = folder / f"haproxy{port}.cfg"
    path.write_text(text)
    tree = Tree(["haproxy", "-W", "-db", "-f", str(path)], folder / f"haproxy{port}.log")
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with suppress(httpx.HTTPError):
            if httpx.get(url + "/healthz").status_code == 200:
                return tree, url
        time.sleep(0.05)
    tree.end()
    raise RuntimeError(f"HAProxy does not answer: {tree.last_line()}")


class Check:
    """A request for predictions, and the outcomes of its answers."""

    def __init__(self, models: list[bytes]) -> None:
        x = np.random.default_rng(0).random((ROWS, WIDTHS[0]), dtype=np.float32)
        self._headers, self._body = PREDICT.write(x)
        self._expected = {
            hashlib.sha256(model).hexdigest(): Ours("", ()).expected(model)(x) for model in models
        }
        self.outcomes: Counter[str] = Counter()

    async def ask(self, client: httpx.AsyncClient) -> None:
        """Send the request and count its outcome."""
        self.outcomes[await self._outcome(client)] += 1

    async def _outcome(self, client: httpx.AsyncClient) -> str:
        try:
            answer = await client.post(PREDICT.path, content=self._body, headers=self._headers)
        except httpx.HTTPError as error:
            return f"failed: {type(error).__name__}"
        if answer.status_code != 200:
            return f"failed: {answer.status_code}"
        digest, found = answer.json()["model"]["sha256"], PREDICT.read(answer.headers, answer.content)
        known = self._expected.get(digest, {})
        right = known and all(np.array_equal(found[name], value) for name, value in known.items())
        return f"right, model {digest[:6]}" if right else "WRONG"


def throughput(folder: Path, seconds: int, count: int) -> None:
    """Print the requests a second of each configuration."""
    x = np.random.default_rng(0).random((ROWS, WIDTHS[0]), dtype=np.float32)
    headers, body = V2_BINARY.write(x)
    path, counts = folder / "models", {"one replica": 1, "2 replicas": 2, "one, --workers 2": 0}
    speeds: dict[str, list[float]] = {name: [] for name in (*counts, "one, --workers 2, no balancer")}
    with ExitStack() as stack:
        urls, trees = {}, {}
        for name, number in counts.items():
            flags = [] if number else ["--workers", 2]
            replicas = [replica(path, 10 * len(urls) + i, *flags) for i in range(max(1, number))]
            for server in replicas:
                stack.enter_context(server).wait_ready()
            tree, urls[name] = balancer(folder, replicas)
            stack.enter_context(tree)
            trees[name] = [tree, *replicas]
        urls["one, --workers 2, no balancer"] = replicas[0].url
        trees["one, --workers 2, no balancer"] = trees["one, --workers 2"]
        for group in trees.values():
            for tree in group:
                tree.signal(signal.SIGSTOP)
        for _ in range(ROUNDS):
            for name, url in urls.items():
                for tree in trees[name]:
                    tree.signal(signal.SIGCONT)
                time.sleep(1.5)  # the balancer polls its replicas
                load = put_load(url, V2_BINARY.path, headers, [body], connections=count, seconds=seconds)
                speeds[name].append(load.requests / load.seconds)
                for tree in trees[name]:
                    tree.signal(signal.SIGSTOP)
    print(f"| {ROWS} inputs a request, {count} connections | requests/s | of one replica |\n|---|---|---|")
    first = statistics.median(speeds["one replica"])
    for name, found in speeds.items():
        print(f"| {name} | {statistics.median(found):,.0f} | {statistics.median(found) / first:.2f} |")


async def changes(folder: Path, models: list[bytes], seconds: int, count: int, database: str | None) -> None:
    """Print the outcomes of requests while replicas are killed and replaced, and models are replaced."""
    flags = [] if database is None else ["--database", database]
    path = folder / "models" / "model.onnx"
    with ExitStack() as stack:
        replicas = [stack.enter_context(replica(path.parent, 100 + i, *flags)) for i in range(3)]
        for server in replicas:
            server.wait_ready()
        tree, url = balancer(folder, replicas)
        stack.enter_context(tree)

        async def kill() -> None:
            await asyncio.sleep(seconds)
            for pid in replicas[0].pids():
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(seconds)

        async def replace_model() -> None:
            for content in (models[1], models[0], models[1]):
                await asyncio.sleep(seconds)
                new = folder / "new"
                new.write_bytes(content)
                new.replace(path)
            await asyncio.sleep(seconds)

        async def replace_replicas() -> None:
            for server in replicas:
                await asyncio.sleep(1)
                await asyncio.to_thread(server.end)
                server.start()
                await asyncio.to_thread(server.wait_ready)

        print("\n| while | outcomes of the requests |\n|---|---|")
        for title, change in {
            "one of 3 replicas is killed": kill,
            "the model is replaced 3 times": replace_model,
            "the replicas are replaced one by one": replace_replicas,
        }.items():
            if not replicas[0].running:
                replicas[0].start()
                await asyncio.to_thread(replicas[0].wait_ready)
                await asyncio.sleep(2)
            check = Check(models)
            async with clients(url, check.ask, count):
                await change()
            shown = ", ".join(f"{n:,} {outcome}" for outcome, n in sorted(check.outcomes.items()))
            print(f"| {title} | {shown} |", flush=True)


@click.command()
@click.option("--seconds", default=5, show_default=True, help="Duration of a window.")
@click.option("--clients", "count", default=16, show_default=True)
@click.option("--database", help="postgresql+psycopg://…, for the replicas to share.")
@click.option("--only", type=click.Choice(["throughput", "changes"]))
def main(seconds: int, count: int, database: str | None, only: str | None) -> None:
    """Print the tables."""
    check_wrk()
    if shutil.which("haproxy") is None:
        raise SystemExit("haproxy is not installed (apt-get install haproxy)")
    models = [to_file(groupsort_net(widths, SCORES)) for widths in (WIDTHS, (784, 512, 256))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        (folder / "models" / "model.onnx").write_bytes(models[0])
        if only != "changes":
            throughput(folder, seconds, count)
        if only != "throughput":
            asyncio.run(changes(folder, models, seconds, count, database))


if __name__ == "__main__":
    main()
