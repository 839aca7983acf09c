"""One serving process: its listening socket, and its graceful shutdown.

On SIGINT or SIGTERM the process first drains: it goes on answering for up to ``drain_seconds``, or until no
connection is open, ``/readyz`` responds 503, so that balancers send no more, and each response closes its
connection. Then it accepts the connections left in the socket's queue, closes the socket, and gives the
requests in flight ``shutdown_seconds``; then it exits, whatever its threads still compute. So a request is
lost only if it takes longer than that, or is sent on a connection that was idle during the whole drain: the
case in which HTTP has clients retry.
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
from functools import partial
from types import FrameType
from typing import Any, cast

import click
import uvicorn
from starlette.applications import Starlette

from service.http.connection import Connection
from service.problems import Problem, ProblemKind
from service.settings import Settings

log = logging.getLogger(__name__)

TICK_SECONDS = 0.02
SETTLE_SECONDS = 1.0
LAST_SECONDS = 2.0
"""To close databases, logs and spans, once requests are answered or cut off."""
BACKLOG = 2048
UNSENT_BYTES = 65_536
"""Limit on unsent bytes of responses in the kernel, for each connection."""
RESERVED_FILES = 128
"""File descriptors kept for models, databases and jobs."""
KEEP_ALIVE_SECONDS = 75
"""Longer than clients and balancers keep idle connections: were the server the first to close, a request
might already be on its way."""


class Server(uvicorn.Server):
    """A server that reports readiness, and shuts down without losing requests.

    Args:
        app: made by ``create_app``.
        settings: of the service.
        ready: called once requests are answered.
        end: exits the process after the shutdown, or when its time is over; None lets the process continue.
    """

    def __init__(
        self,
        app: Starlette,
        settings: Settings,
        ready: Callable[[], None] = lambda: None,
        end: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                log_config=None,  # see service.telemetry.logs
                access_log=False,
                server_header=False,
                ws="none",
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=settings.shutdown_seconds,
                # uvicorn refuses a request when this many connections are open.
                limit_concurrency=connections_within(settings.max_connections) + 1,
                h11_max_incomplete_event_size=settings.max_header_bytes,
                proxy_headers=settings.forwarded_allow_ips is not None,
                forwarded_allow_ips=settings.forwarded_allow_ips or "",
            )
        )
        self._service, self._ready, self._drain_seconds = app.state.service, ready, settings.drain_seconds
        self._end_seconds = settings.drain_seconds + SETTLE_SECONDS + settings.shutdown_seconds + LAST_SECONDS
        self._end = end
        self._request_seconds = settings.request_seconds
        self._progress: dict[Connection, tuple[Any, float]] = {}

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Report as not ready from the signal on."""
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
        """Close stalled connections once a second, which is ten ticks."""
        if counter % 10 == 0:
            self._close_stalled(time.monotonic())
        return await super().on_tick(counter)

    def _close_stalled(self, now: float) -> None:
        """Close connections whose clients neither complete a request nor receive a response for too long."""
        connections: Any = self.server_state.connections
        before, self._progress = self._progress, {}  # without closed connections, which requests refer to
        for connection in tuple(connections):
            progress = connection.progress
            if progress is None:
                continue
            last, since = before.get(connection, (progress, now))
            self._progress[connection] = progress, since if last == progress else now
            if last == progress and now - since > self._request_seconds:
                detail = f"the request was incomplete after {self._request_seconds:g} s"
                connection.evict(Problem(ProblemKind.REQUEST_TIMEOUT, detail))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain and stop; jobs first, since clients that wait for one would delay the shutdown."""
        self._service.metrics.draining.value = 1.0
        if self._end is not None:
            late = threading.Timer(self._end_seconds, self._end)
            late.daemon = True
            late.start()
        self._settling.cancel()
        await self._service.jobs.stop()
        await self._until(lambda: not self.server_state.connections, self._drain_seconds)
        await self._stop_listening(sockets or [])
        # The connections accepted last have sent nothing yet, and uvicorn closes those as idle.
        connections: Any = self.server_state.connections
        await self._until(lambda: all(c.has_request for c in connections), SETTLE_SECONDS)
        await super().shutdown(sockets)
        # Tasks are cancelled by now; an incomplete request may have none.
        for connection in tuple(connections):
            connection.transport.close()
        if self._end is not None:
            self._end()

    async def _stop_listening(self, sockets: Sequence[socket.socket]) -> None:
        """Close the sockets with empty queues: connections that the kernel has accepted are served."""
        loop, kind = asyncio.get_running_loop(), cast(Any, self.config.http_protocol_class)
        state = {"server_state": self.server_state, "app_state": self.lifespan.state}
        protocol = partial(kind, config=self.config, **state)
        for sock in sockets:
            loop.remove_reader(sock)
        await asyncio.sleep(TICK_SECONDS)  # a closed server drops the connections that it is about to accept
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
            await loop.connect_accepted_socket(protocol, connection)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition, for a limited time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not condition() and loop.time() < end and not self.force_exit:
            await asyncio.sleep(TICK_SECONDS)


def end_process() -> None:
    """Exit now, with all logs written: the interpreter would first wait for every thread."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed at the other end, or here
            stream.flush()
    os._exit(0)


def connections_within(wanted: int) -> int:
    """Return how many connections, at most ``wanted``, the limit of open files allows; raise it if needed."""
    needed, limits = wanted + RESERVED_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (needed if limit == resource.RLIM_INFINITY else limit for limit in limits)
    if soft < needed:
        soft = min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    found = max(1, min(wanted, soft - RESERVED_FILES))
    if found < wanted:
        log.warning(
            "max_connections is reduced to %d: the limit of open files (ulimit -n) is %d", found, soft
        )
    return found


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a listening socket, opened before models are loaded, so that a port in use is reported early.

    Args:
        host: address.
        port: 0 chooses a free port.
        shared: whether other shared sockets may listen on the same port; the kernel distributes connections
            over them.

    Raises:
        click.ClickException: the address is unavailable.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    except OSError as error:
        hint = "; choose another with --port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else ""
        reason = str(error.strerror).partition(" (while")[0]  # the rest repeats the address
        raise click.ClickException(f"cannot listen on {host} port {port}: {reason}{hint}") from error
    # Connections inherit this. Without it the body of a response waits 40 ms for the client to
    # acknowledge the headers: asyncio sets it only where a socket's protocol number is given.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # And this: what a client does not receive waits in the process, where it is counted, not in the kernel.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    return sock


def listen_together(host: str, port: int, count: int) -> list[socket.socket]:
    """Return ``count`` sockets listening on one port, one for each process.

    Processes that share a single socket get uneven shares: of 16 connections at one moment to two idle
    processes, one mostly accepts all.

    Raises:
        click.ClickException: the address is unavailable.
    """
    with listen(host, port) as alone:  # fails where another server listens; shared sockets would not
        port = alone.getsockname()[1]
    return [listen(host, port, shared=True) for _ in range(count)]


def url_of(sock: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
