"""Sums of metrics over several worker processes: each writes its own to a file for the others.

A restarted worker continues from the file of its predecessor, so no counter ever decreases; up to a second of
a killed worker's counts is lost. Gauges are not continued, and are ignored in a file that was not written for
some seconds.
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
    """The metrics of one worker, and sums with those of others in a folder; None for a single worker."""

    def __init__(self, metrics: Metrics, folder: Path | None, worker: int) -> None:
        self.metrics, self._folder = metrics, folder
        self._name = f"{worker}.json"
        self._gauges = {d.name for d in metrics.descriptions() if d.kind == "gauge"}
        self._base: Snapshot = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._base = self._read(folder / self._name, gauges=False)

    def total(self) -> Snapshot:
        """Return the sum over all workers; the numbers of others are at most about a second old."""
        found = [self._base, self.metrics.snapshot()]
        if self._folder is not None:
            others = (path for path in sorted(self._folder.glob("*.json")) if path.name != self._name)
            found += [self._read(path) for path in others]
        return total(found)

    def write(self) -> None:
        """Write this worker's metrics for the others, atomically."""
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
        """Write every second until cancelled, and once more then."""
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
        # Missing, or not written by a worker.
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}
