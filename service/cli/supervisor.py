"""Several serving processes at one address; each runs ``service.cli.supervisor SOCKET NUMBER FOLDER``.

The supervisor loads no model and answers no request. It starts each worker with an inherited socket, a
number, a folder for shared metrics, and the settings as a line on standard input; the worker writes a line
to standard output once it is ready. The supervisor restarts workers that die, and passes SIGINT and SIGTERM
on. A worker drains and ends when its standard input closes: the supervisor is gone, for whatever reason.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from lipmodel.errors import LipcertError
from service.http.server import Server, url_of
from service.sandbox.launch import exit_text, message_writer, module_command, module_environment
from service.settings import Settings
from service.startup import lean_imports
from service.telemetry import logs

MAX_DEATHS = 5
DEATHS_SECONDS = 60.0
"""More than ``MAX_DEATHS`` deaths within this time are a fault that restarts do not cure."""
GRACE_SECONDS = 5.0

log = logging.getLogger(__name__)


class WorkersError(LipcertError):
    """The workers cannot be kept running."""


class Supervisor:
    """Keeps one serving process for each socket."""

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        self._settings, self._sockets = settings, sockets
        self._url = url_of(sockets[0])
        self._processes: dict[int, Process] = {}
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS + 1)
        self._stopping = False
        self._metrics = settings.state_folder / "metrics" / uuid.uuid4().hex

    async def run(self) -> None:
        """Run the workers until SIGINT or SIGTERM.

        Raises:
            WorkersError: a worker could not start, or workers died too often.
        """
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_number, self._stop)
        try:
            async with asyncio.TaskGroup() as group:
                first = [group.create_task(self._start(i)) for i in range(len(self._sockets))]
            answer = first[0].result()
            if not self._stopping:
                click.echo(answer["ready"].format(url=self._url, workers=f", workers: {len(self._sockets)}"))
            async with asyncio.TaskGroup() as group:
                for number in range(len(self._sockets)):
                    group.create_task(self._keep(number))
        except ExceptionGroup as errors:  # except* raises groups alone
            known, others = errors.split(WorkersError)
            if known is None or others is not None:
                raise
            raise known.exceptions[0] from None
        finally:
            self._stop()
            await self._end()
            shutil.rmtree(self._metrics, ignore_errors=True)

    async def _start(self, number: int) -> dict[str, Any]:
        """Start a worker and return its message once it is ready; raise WorkersError if it ends instead."""
        listener = self._sockets[number].fileno()
        process = await asyncio.create_subprocess_exec(
            *module_command("service.cli.supervisor", str(listener), str(number), str(self._metrics)),
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=[listener],
            env=module_environment(),
            start_new_session=True,  # Ctrl-C is for the supervisor, which passes it on
        )
        self._processes[number] = process
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        with suppress(ConnectionError):
            process.stdin.write(self._settings.model_dump_json().encode() + b"\n")
            await process.stdin.drain()
        if self._stopping:
            process.terminate()
        line = await process.stdout.readline()
        message: dict[str, Any] = json.loads(line or "{}")
        if "ready" not in message and not self._stopping:
            await process.wait()
            how = exit_text(process.returncode)
            raise WorkersError(message.get("error") or f"worker {number} {how} before it was ready")
        return message

    async def _keep(self, number: int) -> None:
        """Restart a worker whenever it dies; raise WorkersError once workers died too often."""
        while True:
            process = self._processes[number]
            await process.wait()
            if self._stopping:
                return
            log.error("worker %d %s and is restarted", number, exit_text(process.returncode))
            self._deaths.append(time.monotonic())
            if len(self._deaths) > MAX_DEATHS and self._deaths[-1] - self._deaths[0] < DEATHS_SECONDS:
                raise WorkersError(f"workers died {MAX_DEATHS + 1} times within {DEATHS_SECONDS:g} s")
            with suppress(WorkersError):  # logged and counted above
                await self._start(number)

    def _stop(self) -> None:
        """Signal all workers to drain; the sockets then belong to the workers alone, and close with them."""
        self._stopping = True
        for sock in self._sockets:
            sock.close()
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.terminate()

    async def _end(self) -> None:
        """Wait for all workers to end, and kill those that exceed their time."""
        seconds = self._settings.drain_seconds + self._settings.shutdown_seconds + GRACE_SECONDS
        waits = [asyncio.create_task(process.wait()) for process in self._processes.values()]
        _, late = await asyncio.wait(waits, timeout=seconds)
        if late:
            for process in self._processes.values():
                with suppress(ProcessLookupError):
                    process.kill()
            await asyncio.wait(late)


def main() -> None:
    """Serve as one worker until SIGINT or SIGTERM, or until the supervisor is gone."""
    with lean_imports():
        from service.cli.preflight import open_server

    settings = Settings.model_validate_json(sys.stdin.readline())
    logs.set_up(settings.log_format)
    for signal_number in (signal.SIGINT, signal.SIGTERM):  # while models load; then the server handles both
        signal.signal(signal_number, lambda *_: sys.exit(0))
    say = message_writer()
    sock, number, folder = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3])
    try:
        server = open_server(
            settings, sock, lambda line: say(ready=line), worker=number, metrics_folder=folder
        )
    except LipcertError as error:
        say(error=str(error))
        sys.exit(1)
    threading.Thread(target=_end_with_the_supervisor, args=[server], daemon=True).start()
    with sock:
        server.run(sockets=[sock])


def _end_with_the_supervisor(server: Server) -> None:
    while os.read(0, 1):  # not sys.stdin, which would hold a lock at exit
        pass
    server.should_exit = True


if __name__ == "__main__":
    main()
