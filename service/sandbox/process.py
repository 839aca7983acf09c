"""One worker process, from its start to its end: progress, limits, and what it came to."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MAX_LINE_BYTES = 64 * 2**20
"""Of one report."""
TASK_FILE = "task.json"
"""In a job's folder: what is to be done."""
REPORT_FOLDER = "report"
"""In a job's folder: where the worker puts the files of a report."""
PACKAGES = Path(__file__).resolve().parents[2]
POLL_SECONDS = 1.0
"""How often progress is kept, and a cancellation by another server noticed."""

Follow = Callable[[float | None], Awaitable[bool]]


@dataclass(frozen=True)
class Outcome:
    """What a worker came to: a result, or a problem; as :meth:`service.jobs.store.Store.finish` takes it.

    Attributes:
        result: the report (JSON).
        problem: kind and detail (JSON).
        radii: of an evaluation, as float64 bytes.
        report: files by name, of an evaluation that was asked for them.
    """

    result: str | None = None
    problem: str | None = None
    radii: bytes | None = None
    report: Mapping[str, bytes] = field(default_factory=dict)


class Worker:
    """Runs :mod:`service.sandbox.worker` once.

    Args:
        folder: with the job's task, model and data.
        seconds: that it may take.
        most_bytes: of memory that it may write into.
    """

    def __init__(self, folder: Path, *, seconds: float, most_bytes: int) -> None:
        self._folder, self._seconds, self._most_bytes = folder, seconds, most_bytes
        self._process: Process | None = None

    def kill(self) -> None:
        """Ends the process, if there is one; it has no say."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def run(self, follow: Follow) -> Outcome:
        """Starts the process and waits for its end, which this brings about if it is cancelled.

        Args:
            follow: told the share done when that changes, and None every second; where it answers
                False, the process is killed.
        """
        process = self._process = await self._start()
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._listen(process, follow)
                if answer is None:
                    await process.wait()
        except TimeoutError:
            detail = f"the job took longer than {self._seconds:g} s and was stopped"
            return Outcome(problem=problem("job-failed", detail))
        except ValueError:
            detail = f"the report is larger than {MAX_LINE_BYTES} bytes"
            return Outcome(problem=problem("job-failed", detail))
        finally:
            self.kill()
            await process.wait()
        if answer is None:
            code = process.returncode or 0
            how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
            return Outcome(problem=problem("job-failed", f"the worker process {how}"))
        if "problem" in answer:
            return Outcome(problem=json.dumps(answer["problem"]))
        radii = answer.get("radii")
        return Outcome(
            result=json.dumps(answer["result"]),
            radii=None if radii is None else np.array(radii, dtype="<f8").tobytes(),
            report=await asyncio.to_thread(_read_files, self._folder / REPORT_FOLDER),
        )

    async def _start(self) -> Process:
        path = os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "service.sandbox.worker", str(self._folder), str(self._most_bytes)),
            stdin=PIPE,
            stdout=PIPE,
            limit=MAX_LINE_BYTES,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the server, which then ends its workers
        )

    async def _listen(self, process: Process, follow: Follow) -> dict[str, Any] | None:
        """The worker's last word, or None where it died without one."""
        assert process.stdout is not None
        while True:
            line, share = None, None
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):  # wait_for of Python 3.11 may lose a cancellation
                    line = await process.stdout.readline()
            if line is not None:
                if not line.endswith(b"\n"):
                    return None
                message: dict[str, Any] = json.loads(line)
                if "progress" not in message:
                    return message
                share = message["progress"]
            if not await follow(share):
                self.kill()


def _read_files(folder: Path) -> dict[str, bytes]:
    """The folder's files by name; none where it is not there."""
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def problem(kind: str, detail: str) -> str:
    """A problem as it is kept (JSON)."""
    return json.dumps({"kind": kind, "detail": detail})
