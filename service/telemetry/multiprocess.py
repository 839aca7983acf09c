"""The metrics of several worker processes, added up: each keeps its own in a file for the others.

A worker that is started again in another's place goes on from the file that it left, so no counter ever
goes back; up to a second of a killed worker's counts is lost. What is only true now (gauges) is
not taken over, and passed over in the file of a worker that has not been heard of for some seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from service.telemetry.metrics import Metrics, Snapshot, total

WRITE_SECONDS = 1.0
STALE_SECONDS = 5.0


class SharedMetrics:
    """One worker's metrics and its view of the others'.

    Args:
        metrics: its own.
        folder: where the files are; None where there is only this worker.
        worker: its number.
    """

    def __init__(self, metrics: Metrics, folder: Path | None, worker: int) -> None:
        self.metrics, self._folder = metrics, folder
        self._name = f"{worker}.json"
        self._gauges = {d.name for d in metrics.described() if d.kind == "gauge"}
        self._base: Snapshot = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._base = self._read(folder / self._name, gauges=False)

    def total(self) -> Snapshot:
        """The sum over all workers: this one's as they are, the others' at most about a second old."""
        found = [self._base, self.metrics.snapshot()]
        if self._folder is not None:
            others = (path for path in sorted(self._folder.glob("*.json")) if path.name != self._name)
            found += [self._read(path) for path in others]
        return total(found)

    def write(self) -> None:
        """Keeps this worker's metrics for the others, at once or not at all."""
        if self._folder is None:
            return
        numbers = total([self._base, self.metrics.snapshot()])
        text = json.dumps(
            {"time": time.time(), "metrics": {name: list(c.items()) for name, c in numbers.items()}}
        )
        draft = self._folder / (self._name + ".new")
        with suppress(OSError):  # a full disk must not end the service
            draft.write_text(text, "ascii")
            os.replace(draft, self._folder / self._name)

    async def keep_writing(self) -> None:
        """Writes every second until cancelled, and once more."""
        try:
            while True:
                self.write()
                await asyncio.sleep(WRITE_SECONDS)
        finally:
            self.write()

    def _read(self, path: Path, *, gauges: bool = True) -> Snapshot:
        try:
            kept = json.loads(path.read_text("ascii"))
            gauges = gauges and time.time() - kept["time"] < STALE_SECONDS
            return {
                name: {tuple(labels): numbers for labels, numbers in children}
                for name, children in kept["metrics"].items()
                if gauges or name not in self._gauges
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none yet, or no file of ours
            return {}
