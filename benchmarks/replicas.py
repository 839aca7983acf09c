"""Replicas behind the balancer of ``deploy/balancer``: throughput, one killed, models and replicas renewed.

    python -m benchmarks.replicas [--seconds 5] [--clients 16]

HAProxy (apt-get install haproxy) runs with the configuration of the compose file, but for the addresses.
Replicas share one folder of models and, given --database, one PostgreSQL. Throughput is measured by wrk, in
turns of the ways to run it. The rest is asked by clients that keep their connections and compare each answer,
every number of it, with what one of the two models gives in process: an answer that mixes them, or that is
anything but 200, counts.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import click
import httpx
import numpy as np

from benchmarks.load import check_wrk, put_load
from benchmarks.ours import COMMAND
from benchmarks.processes import Tree, free_port
from benchmarks.wire import PREDICT, V2_BINARY
from lipmodel.certify.predictor import CertifiedPredictor
from tests.networks import groupsort_net, to_file

CONFIGURATION = Path(__file__).resolve().parents[1] / "deploy" / "balancer" / "haproxy.cfg"
WIDTHS, SCORES, ROWS = (784, 512, 512), 10, 4
ROUNDS = 3


class Replica:
    """One lipserve."""

    def __init__(self, folder: Path, number: int, flags: list[str]) -> None:
        self.port, self._folder, self._number, self._flags = free_port(), folder, number, flags
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Starts it, perhaps again."""
        state = self._folder / f"state{self._number}"
        flags = ["--models", self._folder / "models", "--state", state, "--port", self.port, *self._flags]
        log = self._folder / f"log{self._number}"
        self.tree = Tree([*COMMAND, *map(str, flags)], log, {"LIPSERVE_DRAIN_SECONDS": "3"})

    def wait(self) -> None:
        """Until it is ready."""
        until(lambda: httpx.get(self.url + "/readyz").status_code == 200)


def until(look: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits for what is to happen.

    Raises:
        RuntimeError: it does not in that time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if look():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise RuntimeError("it does not come up")


def balancer(folder: Path, replicas: list[Replica]) -> tuple[Tree, str]:
    """HAProxy before those replicas, and its URL."""
    port = free_port()
    text = CONFIGURATION.read_text()
    text = re.sub(r"(?s)resolvers docker\n.*?\n\n", "", text)
    text = text.replace("bind :8000", f"bind 127.0.0.1:{port}")
    servers = "\n".join(f"    server r{r.port} 127.0.0.1:{r.port}" for r in replicas)
    text, count = re.subn(r"    server-template .*", servers, text)
    if count != 1:
        raise RuntimeError(f"{CONFIGURATION} is not as expected")
    path = folder / f"haproxy{port}.cfg"
    path.write_text(text)
    tree = Tree(["haproxy", "-W", "-db", "-f", str(path)], folder / f"haproxy{port}.log", {})
    url = f"http://127.0.0.1:{port}"
    until(lambda: httpx.get(url + "/healthz").status_code == 200)
    return tree, url


class Clients:
    """Clients that ask without a pause, and what became of what they asked."""

    def __init__(self, url: str, count: int, models: list[bytes]) -> None:
        self._url, self._count = url, count
        x = np.random.default_rng(0).random((ROWS, WIDTHS[0]), dtype=np.float32)
        self._headers, self._body = PREDICT.write(x)
        self._expected = {}
        for content in models:
            predictor = CertifiedPredictor(content)
            found = predictor.predict(x)
            answer = (found.scores.tolist(), found.radii.certified_radius.tolist())
            self._expected[predictor.file.sha256] = answer
        self.outcomes: Counter[str] = Counter()
        self._stop = False

    async def during(self, work: Callable[[], Awaitable[None]]) -> Counter[str]:
        """Asks while that is done."""
        limits = httpx.Limits(max_connections=self._count, max_keepalive_connections=self._count)
        async with httpx.AsyncClient(base_url=self._url, limits=limits, timeout=30) as client:
            clients = [asyncio.create_task(self._ask(client)) for _ in range(self._count)]
            await work()
            self._stop = True
            await asyncio.gather(*clients)
        return self.outcomes

    async def _ask(self, client: httpx.AsyncClient) -> None:
        while not self._stop:
            try:
                answer = await client.post(PREDICT.path, content=self._body, headers=self._headers)
            except httpx.HTTPError as error:
                self.outcomes[f"failed: {type(error).__name__}"] += 1
                continue
            if answer.status_code != 200:
                self.outcomes[f"failed: {answer.status_code}"] += 1
                continue
            told = answer.json()
            digest, rows = told["model"]["sha256"], told["predictions"]
            found = ([row["scores"] for row in rows], [row["certified_radius"] for row in rows])
            right = self._expected.get(digest) == found
            self.outcomes[f"right, model {digest[:6]}" if right else "WRONG"] += 1


def throughput(folder: Path, seconds: int, clients: int) -> None:
    """Prints requests a second of each way to run it."""
    x = np.random.default_rng(0).random((ROWS, WIDTHS[0]), dtype=np.float32)
    headers, body = V2_BINARY.write(x)
    ways = {"one replica": 1, "2 replicas": 2, "one, --workers 2": 0}
    speeds: dict[str, list[float]] = {way: [] for way in (*ways, "one, --workers 2, no balancer")}
    with ExitStack() as stack:
        urls, trees = {}, {}
        for way, count in ways.items():
            flags = [] if count else ["--workers", "2"]
            mine = [Replica(folder, len(urls) * 10 + i, flags) for i in range(max(1, count))]
            for replica in mine:
                stack.callback(replica.tree.end)
                replica.wait()
            tree, urls[way] = balancer(folder, mine)
            stack.callback(tree.end)
            trees[way] = [tree, *(replica.tree for replica in mine)]
        urls["one, --workers 2, no balancer"] = mine[0].url
        trees["one, --workers 2, no balancer"] = trees["one, --workers 2"]
        for group in trees.values():
            for tree in group:
                tree.signal(signal.SIGSTOP)
        for _ in range(ROUNDS):
            for way, url in urls.items():
                for tree in trees[way]:
                    tree.signal(signal.SIGCONT)
                time.sleep(1.5)  # the balancer looks at its replicas again
                load = put_load(url, V2_BINARY.path, headers, [body], connections=clients, seconds=seconds)
                speeds[way].append(load.requests / load.seconds)
                for tree in trees[way]:
                    tree.signal(signal.SIGSTOP)
    print(f"| {ROWS} inputs a request, {clients} connections | requests/s | of one replica |\n|---|---|---|")
    first = statistics.median(speeds["one replica"])
    for way, found in speeds.items():
        print(f"| {way} | {statistics.median(found):,.0f} | {statistics.median(found) / first:.2f} |")


async def changes(
    folder: Path, models: list[bytes], seconds: int, clients: int, database: str | None
) -> None:
    """Prints what became of requests while replicas are killed and renewed, and models are renewed."""
    flags = [] if database is None else ["--database", database]
    path = folder / "models" / "model.onnx"
    with ExitStack() as stack:
        replicas = [Replica(folder, 100 + i, flags) for i in range(3)]
        for replica in replicas:
            stack.callback(lambda r=replica: r.tree.end())
            replica.wait()
        tree, url = balancer(folder, replicas)
        stack.callback(tree.end)

        async def kill() -> None:
            await asyncio.sleep(seconds)
            for pid in replicas[0].tree.pids():
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(seconds)

        async def renew_model() -> None:
            for content in (models[1], models[0], models[1]):
                await asyncio.sleep(seconds)
                new = folder / "new"
                new.write_bytes(content)
                new.replace(path)
            await asyncio.sleep(seconds)

        async def renew_replicas() -> None:
            for replica in replicas:
                await asyncio.sleep(1)
                await asyncio.to_thread(replica.tree.end)
                replica.start()
                await asyncio.to_thread(replica.wait)

        print("\n| while | what became of the requests |\n|---|---|")
        for what, work in {
            "one of 3 replicas is killed": kill,
            "the model is renewed 3 times": renew_model,
            "the replicas are renewed one by one": renew_replicas,
        }.items():
            if work is not kill and not replicas[0].tree.running:
                replicas[0].start()
                await asyncio.to_thread(replicas[0].wait)
                await asyncio.sleep(2)
            outcomes = await Clients(url, clients, models).during(work)
            print(f"| {what} | {', '.join(f'{n:,} {o}' for o, n in sorted(outcomes.items()))} |", flush=True)


@click.command()
@click.option("--seconds", default=5, show_default=True, help="Of one window.")
@click.option("--clients", default=16, show_default=True)
@click.option("--database", help="postgresql+psycopg://…, for the replicas to share.")
@click.option("--only", type=click.Choice(["throughput", "changes"]))
def main(seconds: int, clients: int, database: str | None, only: str | None) -> None:
    """Prints the tables."""
    check_wrk()
    if shutil.which("haproxy") is None:
        raise SystemExit("haproxy is not installed (apt-get install haproxy)")
    models = [to_file(groupsort_net(widths, SCORES)) for widths in (WIDTHS, (784, 512, 256))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        (folder / "models" / "model.onnx").write_bytes(models[0])
        if only != "changes":
            throughput(folder, seconds, clients)
        if only != "throughput":
            asyncio.run(changes(folder, models, seconds, clients, database))


if __name__ == "__main__":
    main()
