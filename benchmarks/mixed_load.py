"""Mixed load while models are swapped: wrong answers, server errors, memory over time.

    python -m benchmarks.mixed_load [--minutes 30] [--concurrency 64] [--workers 1] [--swap-seconds 1]

So many clients send, one request after another: predictions of one row and of 64 to several models, as
JSON or npy and by the v2 protocol where the service has them, small audits, and 1% hostile requests.
Meanwhile one model's file is replaced by another's, atomically, again and again. Each answer is compared
with what :class:`CertifiedPredictor` says in this process of the file whose digest the answer names: a wrong
answer is any label, score or radius that differs, or a digest that no file had. Exits with 1 where any
answer is wrong or any status is 5xx.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
from numpy.typing import NDArray

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Norm

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "models"
ROWS = 512
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


@dataclass
class Known:
    """One file, and what it answers to the inputs that are sent."""

    content: bytes
    inputs: NDArray[np.float64]
    label: NDArray[np.int64]
    scores: NDArray[np.float64]
    radius: NDArray[np.float64]

    @classmethod
    def of(cls, content: bytes, rng: np.random.Generator) -> Known:
        """Answers computed here."""
        predictor = CertifiedPredictor(content)
        inputs = rng.uniform(-1, 2, size=(ROWS, predictor.file.graph.input_size))
        inputs = inputs.astype(np.float32).astype(np.float64)
        found = predictor.predict(inputs, Norm.TWO)
        return cls(content, inputs, found.radii.label, found.scores, found.radii.certified_radius)


@dataclass
class Tally:
    """What was seen."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    digests: Counter[str] = field(default_factory=Counter)


class Load:
    """The clients."""

    def __init__(
        self, client: httpx.AsyncClient, models: dict[str, list[str]], known: dict[str, Known]
    ) -> None:
        self._client, self._models, self._known = client, models, known
        self._rng = np.random.default_rng(1)
        self._kinds = ["json", "json-64", "npy-64", "v2"]
        self.tally = Tally()

    async def look(self) -> None:
        """Leaves out what the service does not have."""
        name, digests = next(iter(self._models.items()))
        row = self._known[digests[0]].inputs[:1]
        for kind in ("npy-64", "v2"):
            answer = await self._send(kind, name, row)
            if answer.status_code in (404, 415):
                self._kinds.remove(kind)
        print("kinds of prediction:", ", ".join(self._kinds), flush=True)

    async def client(self, end: float) -> None:
        """One request after another."""
        while time.monotonic() < end:
            draw = self._rng.uniform()
            try:
                if draw < 0.01:
                    await self._hostile()
                elif draw < 0.012:
                    await self._audit()
                else:
                    await self._predict()
            except httpx.HTTPError as error:
                self.tally.statuses[type(error).__name__] += 1
                self.tally.wrong.append(f"no answer: {error!r}")

    async def _predict(self) -> None:
        name = str(self._rng.choice(list(self._models)))
        kind = str(self._rng.choice(self._kinds))
        count = 64 if kind.endswith("64") else 1
        start = int(self._rng.integers(0, ROWS - count))
        rows = self._known[self._models[name][0]].inputs[start : start + count]
        answer = await self._send(kind, name, rows)
        self.tally.statuses[f"{kind} {answer.status_code}"] += 1
        if answer.status_code != 200:
            self.tally.wrong.append(f"{kind}: {answer.status_code} {answer.text[:200]}")
            return
        told = self._wrong(kind, name, answer.json(), slice(start, start + count))
        if told:
            self.tally.wrong.append(f"{kind} {name}: {told}")

    def _wrong(self, kind: str, name: str, body: dict[str, Any], rows: slice) -> str | None:
        """How the answer differs from each file that may have given it; None where it does not."""
        digest = body.get("model", {}).get("sha256") if kind != "v2" else None
        candidates = self._models[name] if digest is None else [digest]
        if not set(candidates) <= set(self._models[name]):
            return f"no file of this model has the digest {digest}"
        self.tally.digests[candidates[0]] += 1
        if kind == "v2":
            outputs = {output["name"]: output["data"] for output in body["outputs"]}
            got = [np.array(outputs["certified_radius"])]
            expected = [[self._known[d].radius[rows]] for d in candidates]
        else:
            predictions = body["predictions"]
            names = ("label_index", "scores", "certified_radius")
            got = [np.array([p[name] for p in predictions]) for name in names]
            expected = [
                [self._known[d].label[rows], self._known[d].scores[rows], self._known[d].radius[rows]]
                for d in candidates
            ]
        if any(all(np.array_equal(a, b) for a, b in zip(got, one, strict=True)) for one in expected):
            return None
        worst = min(max(np.abs(a - b).max() for a, b in zip(got, one, strict=True)) for one in expected)
        return f"differs from the model by {worst}"

    async def _send(self, kind: str, name: str, rows: NDArray[np.float64]) -> httpx.Response:
        path = f"/v1/models/{name}/predict"
        if kind == "v2":
            flat = {
                "name": "input",
                "shape": list(rows.shape),
                "datatype": "FP64",
                "data": rows.ravel().tolist(),
            }
            body = {"inputs": [flat], "parameters": {"norm": "2"}}
            return await self._client.post(f"/v2/models/{name}/infer", json=body)
        if kind.startswith("npy"):
            file = io.BytesIO()
            np.save(file, rows)
            headers = {"Content-Type": "application/x-npy"}
            return await self._client.post(
                path, params={"norm": "2"}, content=file.getvalue(), headers=headers
            )
        return await self._client.post(path, json={"inputs": rows.tolist(), "norm": "2"})

    async def _audit(self) -> None:
        name = str(self._rng.choice(list(self._models)))
        headers = {"Prefer": "wait=0"}
        answer = await self._client.post(f"/v1/models/{name}/audits", json={"samples": 10}, headers=headers)
        self.tally.statuses[f"audit {answer.status_code}"] += 1

    async def _hostile(self) -> None:
        content, headers = HOSTILE[int(self._rng.integers(len(HOSTILE)))]
        name = str(self._rng.choice([*self._models, "nope", "..%2f..%2fetc"]))
        headers = {"Content-Type": "application/json"} | headers
        answer = await self._client.post(f"/v1/models/{name}/predict", content=content, headers=headers)
        self.tally.statuses[f"hostile {answer.status_code}"] += 1
        if not 400 <= answer.status_code < 500:
            self.tally.wrong.append(f"hostile {content[:40]!r}: {answer.status_code}")


async def swap(file: Path, contents: list[bytes], seconds: float) -> None:
    """Replaces the file again and again, each time at once."""
    for i in range(1, sys.maxsize):
        await asyncio.sleep(seconds)
        draft = file.with_name(f".{file.name}.new")
        draft.write_bytes(contents[i % len(contents)])
        os.replace(draft, file)


def resident_mib(pid: int) -> float:
    """Of a process and its children that serve."""
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    pages = 0
    for one in pids:
        command = Path(f"/proc/{one}/cmdline").read_bytes()
        if b"service.sandbox.worker\0" not in command:  # of a job
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def watch(load: Load, pid: int, seconds: float) -> None:
    """Prints how it goes."""
    begun, before = time.monotonic(), 0
    while True:
        await asyncio.sleep(seconds)
        done = sum(load.tally.statuses.values())
        print(
            f"{time.monotonic() - begun:6.0f} s: {(done - before) / seconds:6.0f} requests/s, "
            f"{resident_mib(pid):.0f} MiB, {len(load.tally.wrong)} wrong",
            flush=True,
        )
        before = done


def other_weights(content: bytes) -> bytes:
    """The same model with its weights halved: another file, other scores, other radii."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(content)
    last = [t for t in model.graph.initializer if len(t.dims) == 2][-1]
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) / 2, last.name))
    return bytes(model.SerializeToString())


async def run(folder: Path, seconds: float, concurrency: int, workers: int, swap_seconds: float) -> Tally:
    """One server and its clients."""
    rng = np.random.default_rng(0)
    models: dict[str, list[str]] = {}
    known: dict[str, Known] = {}
    folder.mkdir()
    for path in sorted(EXAMPLES.glob("*.onnx")):
        shutil.copy(path, folder)
        shutil.copy(path, folder / f"other-{path.name}")
    swapped = folder / "two-moons.onnx"
    contents = [swapped.read_bytes(), other_weights(swapped.read_bytes())]
    for path in sorted(folder.glob("*.onnx")):
        for content in contents if path == swapped else [path.read_bytes()]:
            digest = CertifiedPredictor(content).file.sha256
            known.setdefault(digest, Known.of(content, rng))
            models.setdefault(path.stem, []).append(digest)
    first, second = models["two-moons"]
    known[second] = Known.of(contents[1], rng)
    _share_inputs(known[first], known[second])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "--models", str(folder), "--port", "0"),
        *("--workers", str(workers)),
        stdout=PIPE,
    )
    try:
        assert process.stdout is not None
        found = re.search(rb"ready at (\S+)", await process.stdout.readline())
        assert found
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        async with httpx.AsyncClient(base_url=found[1].decode(), timeout=60, limits=limits) as client:
            load = Load(client, models, known)
            await load.look()
            beside = [
                asyncio.create_task(swap(swapped, contents, swap_seconds)),
                asyncio.create_task(watch(load, process.pid, max(seconds / 30, 5))),
            ]
            end = time.monotonic() + seconds
            await asyncio.gather(*(load.client(end) for _ in range(concurrency)))
            for task in beside:
                task.cancel()
            print(f"at the end {resident_mib(process.pid):.0f} MiB")
    finally:
        process.terminate()
        await process.wait()
    print(
        "answers by file of the swapped model:", {d[:8]: load.tally.digests[d] for d in models["two-moons"]}
    )
    return load.tally


def _share_inputs(first: Known, second: Known) -> None:
    """Either file may answer the same request."""
    predictor = CertifiedPredictor(second.content)
    found = predictor.predict(first.inputs, Norm.TWO)
    second.inputs, second.label = first.inputs, found.radii.label
    second.scores, second.radius = found.scores, found.radii.certified_radius


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--concurrency", default=64, show_default=True)
@click.option("--workers", default=1, show_default=True)
@click.option("--swap-seconds", default=1.0, show_default=True)
def main(minutes: float, concurrency: int, workers: int, swap_seconds: float) -> None:
    """Prints counts of statuses, wrong answers, memory."""
    with tempfile.TemporaryDirectory() as folder:
        tally = asyncio.run(run(Path(folder) / "models", 60 * minutes, concurrency, workers, swap_seconds))
    print(json.dumps(dict(sorted(tally.statuses.items())), indent=1))
    faults = sum(count for status, count in tally.statuses.items() if re.search(r" 5\d\d$", status))
    print(f"{sum(tally.statuses.values())} requests, {len(tally.wrong)} wrong, {faults} server errors")
    for told in tally.wrong[:10]:
        print(told)
    sys.exit(bool(tally.wrong or faults))


if __name__ == "__main__":
    main()
