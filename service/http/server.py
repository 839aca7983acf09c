"""One serving process: the socket it listens on, and its end.

Told to stop (SIGINT, SIGTERM), it first goes on answering for up to ``drain_seconds``, or until no
connection is open: ``/readyz`` says 503, so that balancers send no more, and each answer closes its
connection. Then what the system had accepted by itself is taken over, the socket is closed, and the
requests in flight have ``shutdown_seconds``; then the process ends, whatever its threads still compute.
So a request is lost only if it takes longer than that, or is sent on a connection that was idle all the
time before: the moment that HTTP leaves to clients to retry.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import click
import uvicorn
from fastapi import FastAPI

from service.http.connection import Connection
from service.http.stalled import Arrivals
from service.settings import Settings

log = logging.getLogger(__name__)

TICK_SECONDS = 0.02
SETTLE_SECONDS = 1.0
LAST_SECONDS = 2.0
"""For databases, logs and spans, once requests are answered or cut off."""
BACKLOG = 2048
UNSENT_BYTES = 65_536
"""That the system may hold of the answers on a connection, besides those on their way."""
RESERVED_FILES = 128
"""Besides connections: of models, databases, jobs."""
KEEP_ALIVE_SECONDS = 75
"""Longer than clients and balancers keep idle connections: who closes first must not be the server, or a
request may be on its way."""


class Server(uvicorn.Server):
    """A server that says so once it answers, and loses nothing when it is told to stop.

    Args:
        app: made by ``create_app``.
        settings: the app's.
        ready: called once it answers.
        end: ends the process, after all is done or when the time for that is over; None where the process
            goes on.
    """

    def __init__(
        self,
        app: FastAPI,
        settings: Settings,
        ready: Callable[[], None] = lambda: None,
        end: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                log_config=None,  # the process's, see service.telemetry.logs
                access_log=False,
                server_header=False,
                ws="none",
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=settings.shutdown_seconds,
                # It refuses when this many are there.
                limit_concurrency=connections_within(settings.max_connections) + 1,
                h11_max_incomplete_event_size=settings.max_header_bytes,
                proxy_headers=settings.forwarded_allow_ips is not None,
                forwarded_allow_ips=settings.forwarded_allow_ips or "",
            )
        )
        self._service, self._ready, self._drain_seconds = app.state.service, ready, settings.drain_seconds
        self._end_seconds = settings.drain_seconds + SETTLE_SECONDS + settings.shutdown_seconds + LAST_SECONDS
        self._end = end
        self._arrivals = Arrivals(settings.request_seconds)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Readiness ends with the signal itself."""
        self._service.metrics.draining.value = 1.0
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; report readiness once every model present at the start is served or refused."""
        await super().startup(sockets)
        self._settling = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        while not self._service.models.settled:
            await asyncio.sleep(TICK_SECONDS)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Once a second (of ten ticks), looks for requests that do not arrive."""
        if counter % 10 == 0:
            self._arrivals.sweep(self.server_state.connections, time.monotonic())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the jobs first: whoever waits for one would hold up the end."""
        self._service.metrics.draining.value = 1.0
        if self._end is not None:
            late = threading.Timer(self._end_seconds, self._end)
            late.daemon = True
            late.start()
        self._settling.cancel()
        await self._service.jobs.stop()
        await self._until(lambda: not self.server_state.connections, self._drain_seconds)
        await self._stop_listening(sockets or [])
        # Those accepted last have yet to be heard: uvicorn takes a connection without a request for idle.
        await self._until(lambda: all(map(_was_asked, self.server_state.connections)), SETTLE_SECONDS)
        await super().shutdown(sockets)
        # Tasks are cancelled by now; a request that never came whole may have none.
        for connection in tuple(self.server_state.connections):
            connection.transport.close()
        if self._end is not None:
            self._end()

    async def _stop_listening(self, sockets: Sequence[socket.socket]) -> None:
        """Closes the sockets with nothing in their queues: what the system has accepted is served."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            loop.remove_reader(sock)
        await asyncio.sleep(TICK_SECONDS)  # a closed server drops those that it is about to take over
        copies = [sock.dup() for sock in sockets]
        for server in self.servers:
            server.close()
        for sock in sockets:
            sock.close()
        accepted = []
        for copy in copies:
            copy.setblocking(False)
            with copy, suppress(BlockingIOError):
                while True:
                    accepted.append(copy.accept()[0])
        for connection in accepted:
            connection.setblocking(False)
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        made: asyncio.Protocol = kind(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Waits so long at most."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not condition() and loop.time() < end and not self.force_exit:
            await asyncio.sleep(TICK_SECONDS)


def end_process() -> None:
    """End this process now, with its logs written: the interpreter would first wait for every thread."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed at the other end, or here
            stream.flush()
    os._exit(0)


def _was_asked(connection: Any) -> bool:
    return getattr(connection, "cycle", None) is not None


def connections_within(wanted: int) -> int:
    """Return how many connections the limit of open files allows, once it is raised as far as it may be.

    Args:
        wanted: at most so many.
    """
    needed, limits = wanted + RESERVED_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (needed if limit == resource.RLIM_INFINITY else limit for limit in limits)
    if soft < needed:
        soft = min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    found = max(1, min(wanted, soft - RESERVED_FILES))
    if found < wanted:
        log.warning("at most %d connections: the limit of open files (ulimit -n) is %d", found, soft)
    return found


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket, taken before models are loaded, so that a port in use is told at once.

    Args:
        host: address.
        port: 0 takes a free one.
        shared: whether other sockets of this kind may listen there, too; the system spreads connections
            over them.

    Raises:
        click.ClickException: the address is not to be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    except OSError as error:
        hint = "; choose another with --port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else ""
        reason = str(error.strerror).partition(" (while")[0]  # the rest repeats the address
        raise click.ClickException(f"cannot listen on {host} port {port}: {reason}{hint}") from error
    # Connections inherit this. Without it an answer's body waits 40 ms for the client to
    # acknowledge the headers: asyncio sets it only where a socket's protocol number is given.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # And this: what a client does not take waits here, where it is counted, and not in the system's memory.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    return sock


def listen_together(host: str, port: int, count: int) -> list[socket.socket]:
    """So many sockets listening at one place, one for each process.

    Over one socket in all of them connections fall unevenly: of 16 that come at once to two idle
    processes, one mostly takes all.

    Raises:
        click.ClickException: the address is not to be had.
    """
    with listen(host, port) as alone:  # refused where any other server listens, which shared ones are not
        port = alone.getsockname()[1]
    return [listen(host, port, shared=True) for _ in range(count)]


def url_of(sock: socket.socket) -> str:
    """Where a listening socket is found."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
