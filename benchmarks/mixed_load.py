"""Mixed load while models are replaced: wrong answers, server errors, memory over time.

    python -m benchmarks.mixed_load [--minutes 30] [--concurrency 64] [--workers 1] [--swap-seconds 1]

Each client sends one request after another: predictions of one row and of 64 for several models, as JSON, npy
and by the v2 protocol, small audits, and 1% hostile requests. Meanwhile one model's file is replaced by
another, atomically, again and again. Each answer is compared with that of :class:`CertifiedPredictor` in this
process for the file whose digest the answer names: an answer is wrong if a label, score or radius differs, or
if no file had the digest. Exit status 1 where an answer is wrong or a status is 5xx.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

import click
import httpx
import numpy as np

from benchmarks.lipserve import EXAMPLES, Lipserve, clients, served
from benchmarks.ours import Ours
from benchmarks.processes import resident_bytes
from benchmarks.wire import JSON, PREDICT, PREDICT_NPY, V2_JSON, Answers, Wire
from lipmodel.certify.predictor import CertifiedPredictor

ROWS = 512
SWAPPED = "two-moons"
KINDS = ((PREDICT, 1), (PREDICT, 64), (PREDICT_NPY, 64), (V2_JSON, 1))
"""Predictions: how they are written, and the rows of each."""
HOSTILE: list[tuple[bytes, dict[str, str]]] = [
    (b"", {}),
    (b"{", {}),
    (b'{"inputs": []}', {}),
    (b'{"inputs": [[1]]}', {}),
    (b'{"inputs": [["x", null]]}', {}),
    (b'{"inputs": [[1e400, NaN]]}', {}),
    (b'{"inputs": ' + b"[" * 5000, {}),
    (b'{"inputs": [[0, 1]], "norm": "7", "epsilon": -1}', {}),
    (b"\x93NUMPY\x01\x00\xff\xff{", {"Content-Type": "application/x-npy"}),
    (b"\xff\xfe\x00", {"Content-Type": "text/plain"}),
    (b"x" * 2000, {"Content-Encoding": "gzip"}),
]


class Load:
    """Clients that send requests of all kinds, and the outcomes.

    Args:
        models: contents of the files that each model has, by model name.

    Attributes:
        statuses: statuses and errors, by kind of request.
        wrong: descriptions of wrong answers.
        digests: answers by the digest of the file that gave them.
    """

    def __init__(self, models: dict[str, list[bytes]]) -> None:
        self._rng, self._inputs = np.random.default_rng(1), {}
        self._known: dict[str, dict[str, Answers]] = {}
        for name, contents in models.items():
            predictors = {content: CertifiedPredictor(content) for content in contents}
            size = predictors[contents[0]].file.graph.input_size
            x = self._inputs[name] = self._rng.uniform(-1, 2, size=(ROWS, size)).astype(np.float32)
            self._known[name] = {
                predictor.file.sha256: Ours("", ()).expected(content)(x)
                for content, predictor in predictors.items()
            }
        self.statuses, self.wrong = Counter[str](), list[str]()
        self.digests: Counter[str] = Counter()

    async def ask(self, client: httpx.AsyncClient) -> None:
        """Send one request."""
        draw = self._rng.uniform()
        try:
            await (self._hostile if draw < 0.01 else self._audit if draw < 0.012 else self._predict)(client)
        except httpx.HTTPError as error:
            self.statuses[type(error).__name__] += 1
            self.wrong.append(f"no answer: {error!r}")

    def _model(self) -> str:
        return str(self._rng.choice(list(self._known)))

    async def _predict(self, client: httpx.AsyncClient) -> None:
        name, (wire, count) = self._model(), KINDS[int(self._rng.integers(len(KINDS)))]
        start = int(self._rng.integers(0, ROWS - count))
        rows = slice(start, start + count)
        headers, body = wire.write(self._inputs[name][rows])
        path, kind = wire.path.replace("/model/", f"/{name}/"), f"{wire.name}, {count} rows"
        answer = await client.post(path, content=body, headers=headers)
        self.statuses[f"{kind} {answer.status_code}"] += 1
        if answer.status_code != 200:
            self.wrong.append(f"{kind}: {answer.status_code} {answer.text[:200]}")
        elif fault := self._fault(wire, name, answer, rows):
            self.wrong.append(f"{kind} {name}: {fault}")

    def _fault(self, wire: Wire, name: str, answer: httpx.Response, rows: slice) -> str | None:
        """Return a description of an answer that none of the model's files gives, else None."""
        files, found = self._known[name], wire.read(answer.headers, answer.content)
        if digest := answer.json().get("model", {}).get("sha256"):  # the v2 protocol has none
            if digest not in files:
                return f"no file of this model has the digest {digest}"
            files = {digest: files[digest]}
        self.digests[next(iter(files))] += 1
        for known in files.values():
            if all(np.array_equal(found[part], value[rows]) for part, value in known.items()):
                return None
        return f"not that of the model: {answer.text[:200]}"

    async def _audit(self, client: httpx.AsyncClient) -> None:
        path, headers = f"/v1/models/{self._model()}/audits", {"Prefer": "wait=0"}
        answer = await client.post(path, json={"samples": 10}, headers=headers)
        self.statuses[f"audit {answer.status_code}"] += 1

    async def _hostile(self, client: httpx.AsyncClient) -> None:
        content, headers = HOSTILE[int(self._rng.integers(len(HOSTILE)))]
        name = str(self._rng.choice([*self._known, "nope", "..%2f..%2fetc"]))
        answer = await client.post(f"/v1/models/{name}/predict", content=content, headers=JSON | headers)
        self.statuses[f"hostile {answer.status_code}"] += 1
        if not 400 <= answer.status_code < 500:
            self.wrong.append(f"hostile {content[:40]!r}: {answer.status_code}")


async def swap(file: Path, contents: list[bytes], seconds: float) -> None:
    """Replace a file again and again, atomically."""
    for i in range(1, sys.maxsize):
        await asyncio.sleep(seconds)
        draft = file.with_name(f".{file.name}.new")
        draft.write_bytes(contents[i % len(contents)])
        os.replace(draft, file)


def resident_mib(server: Lipserve) -> float:
    """Return the memory of a server's processes, except those of jobs."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in server.pids()}
    serving = [pid for pid, command in commands.items() if b"service.sandbox.worker\0" not in command]
    return sum(map(resident_bytes, serving)) / 2**20


async def watch(load: Load, server: Lipserve, seconds: float) -> None:
    """Print throughput, memory and wrong answers at intervals."""
    begun, before = time.monotonic(), 0
    while True:
        await asyncio.sleep(seconds)
        done = load.statuses.total()
        print(
            f"{time.monotonic() - begun:6.0f} s: {(done - before) / seconds:6.0f} requests/s, "
            f"{resident_mib(server):.0f} MiB, {len(load.wrong)} wrong",
            flush=True,
        )
        before = done


def other_weights(content: bytes) -> bytes:
    """Return a model with the weights of its last layer halved, so that scores and radii differ."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(content)
    last = [t for t in model.graph.initializer if len(t.dims) == 2][-1]
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) / 2, last.name))
    return bytes(model.SerializeToString())


async def run(seconds: float, concurrency: int, workers: int, swap_seconds: float) -> Load:
    """Load a new server for so many seconds; return the outcomes."""
    models = {path.stem: [path.read_bytes()] for path in sorted(EXAMPLES.glob("*.onnx"))}
    models |= {f"other-{name}": contents for name, contents in models.items()}
    models[SWAPPED] = [*models[SWAPPED], other_weights(models[SWAPPED][0])]
    load, first = Load(models), {name: contents[0] for name, contents in models.items()}
    with served(first, "--workers", workers) as server:
        beside = [
            asyncio.create_task(swap(server.models / f"{SWAPPED}.onnx", models[SWAPPED], swap_seconds)),
            asyncio.create_task(watch(load, server, max(seconds / 30, 5))),
        ]
        async with clients(server.url, load.ask, concurrency):
            await asyncio.sleep(seconds)
        for task in beside:
            task.cancel()
        print(f"at the end {resident_mib(server):.0f} MiB")
    shown = {digest[:8]: count for digest, count in load.digests.items()}
    print("answers by the file that gave them:", shown)
    return load


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--concurrency", default=64, show_default=True)
@click.option("--workers", default=1, show_default=True)
@click.option("--swap-seconds", default=1.0, show_default=True)
def main(minutes: float, concurrency: int, workers: int, swap_seconds: float) -> None:
    """Print statuses, wrong answers and memory."""
    load = asyncio.run(run(60 * minutes, concurrency, workers, swap_seconds))
    print(json.dumps(dict(sorted(load.statuses.items())), indent=1))
    faults = sum(count for status, count in load.statuses.items() if re.search(r" 5\d\d$", status))
    print(f"{load.statuses.total()} requests, {len(load.wrong)} wrong, {faults} server errors")
    for fault in load.wrong[:10]:
        print(fault)
    sys.exit(bool(load.wrong or faults))


if __name__ == "__main__":
    main()
