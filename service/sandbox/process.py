"""The server's end of a job's process (:mod:`service.sandbox.worker`): progress, limits and outcome."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from service.sandbox.launch import exit_text, module_command, module_environment

MAX_LINE_BYTES = 64 * 2**20
"""Largest result, as JSON."""
TASK_FILE = "task.json"
"""File in a job's folder: kind, options and the model's digest."""
REPORT_FOLDER = "report"
"""Folder in a job's folder: the files of its report."""
POLL_SECONDS = 1.0
"""Interval at which progress is stored, and a cancellation by another server noticed."""

Follow = Callable[[float | None], Awaitable[bool]]


@dataclass(frozen=True)
class Outcome:
    """Result or problem of a job, in the form of :meth:`service.jobs.store.Store.finish`.

    Attributes:
        result: the job's result (JSON).
        problem: kind and detail (JSON).
        radii: certified radii of an evaluation, as float64 bytes.
        report: files of a requested report, by name.
    """

    result: str | None = None
    problem: str | None = None
    radii: bytes | None = None
    report: Mapping[str, bytes] = field(default_factory=dict)


class JobProcess:
    """One run of :mod:`service.sandbox.worker` in a job's folder, with limits of time and memory."""

    def __init__(self, folder: Path, *, seconds: float, max_bytes: int) -> None:
        self._folder, self._seconds, self._max_bytes = folder, seconds, max_bytes
        self._process: Process | None = None

    def kill(self) -> None:
        """Kill the process, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def run(self, follow: Follow) -> Outcome:
        """Run the process and return its outcome; kill the process if this call is cancelled.

        Args:
            follow: called with the share done when that changes, and with None every second; where it
                returns False, the process is killed.
        """
        process = self._process = await self._start()
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._listen(process, follow)
                if answer is None:
                    await process.wait()
        except TimeoutError:
            detail = f"the job was stopped at its time limit of {self._seconds:g} s (job_seconds)"
            return Outcome(problem=problem("job-failed", detail))
        except ValueError:
            detail = f"the result is larger than the limit of {MAX_LINE_BYTES} bytes"
            return Outcome(problem=problem("job-failed", detail))
        finally:
            self.kill()
            await process.wait()
        if answer is None:
            detail = f"the worker process {exit_text(process.returncode)}"
            return Outcome(problem=problem("job-failed", detail))
        if "problem" in answer:
            return Outcome(problem=json.dumps(answer["problem"]))
        radii = answer.get("radii")
        return Outcome(
            result=json.dumps(answer["result"]),
            radii=None if radii is None else np.array(radii, dtype="<f8").tobytes(),
            report=await asyncio.to_thread(_read_files, self._folder / REPORT_FOLDER),
        )

    async def _start(self) -> Process:
        return await asyncio.create_subprocess_exec(
            *module_command("service.sandbox.worker", str(self._folder), str(self._max_bytes)),
            stdin=PIPE,
            stdout=PIPE,
            limit=MAX_LINE_BYTES,
            env=module_environment(),
            start_new_session=True,  # Ctrl-C reaches the server alone, which then ends its jobs
        )

    async def _listen(self, process: Process, follow: Follow) -> dict[str, Any] | None:
        """Return the last message of the process, its result or problem; None where it died without one."""
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
    """Return the files of a folder by name; none where there is no folder."""
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def problem(kind: str, detail: str) -> str:
    """Return a problem as JSON, in the form in which jobs store it."""
    return json.dumps({"kind": kind, "detail": detail})
