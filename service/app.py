"""The application, and the ``lipserve`` command."""

from __future__ import annotations

import errno
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, get_args

import click
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from lipmodel import __version__
from service.api import audits, drift, evaluations, models, ops, predict, reports
from service.api.context import Service
from service.api.openapi import describe
from service.database import StoreError
from service.engine import Engine
from service.errors import ProblemKind, install_handlers
from service.jobs import Jobs
from service.registry import read_folder
from service.settings import ENVIRONMENT_PREFIX, Settings
from service.state_folder import StateFolder
from service.store import Store

DESCRIPTION = """\
Predictions with **certified radii**: no change of the input within the radius changes the label,
proved from the weights in the model's file.

Whatever goes wrong is answered as a problem of RFC 9457 (`application/problem+json`), whose `type` is one of:

| type | status | meaning |
|---|---|---|
""" + "\n".join(f"| `{k.uri}` | {k.status} | {k.title}. {k.advice} |" for k in ProblemKind)


def create_app(settings: Settings) -> FastAPI:
    """The application, with the models of the folder loaded.

    Raises:
        StoreError: jobs cannot be kept where the settings say.
    """
    jobs = open_jobs(settings)
    service = Service(settings, read_folder(settings.models, threads=settings.threads), Engine(), jobs)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await jobs.start()
        yield
        await jobs.stop()
        jobs.close()
        service.engine.close()

    app = FastAPI(
        title="Lipcert",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,  # a path that is not ours is a 404, not a redirect to a guess
    )
    app.state.service = service
    install_handlers(app)
    for group in (predict, models, audits, evaluations, reports, drift, ops):
        app.include_router(group.router)
    describe(app)
    return app


def open_jobs(settings: Settings) -> Jobs:
    """The jobs that are kept where the settings say.

    Raises:
        StoreError: the folder or the database cannot be used.
    """
    folder = StateFolder(settings.state_folder)
    try:
        store = Store(settings.database or folder.database, folder.server)
    except StoreError:
        folder.close()
        raise
    return Jobs(
        store,
        folder,
        workers=settings.workers,
        max_queued=settings.max_queued,
        kept=settings.kept_jobs,
        seconds=settings.job_seconds,
        most_bytes=settings.job_bytes,
    )


class Server(uvicorn.Server):
    """A server that says so once it answers."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=settings.shutdown_seconds,
            )
        )
        self._registry = app.state.service.registry
        self._jobs = app.state.service.jobs

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts, then prints the one line that scripts wait for."""
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        served, refused = len(self._registry.served), len(self._registry.refused)
        click.echo(f"lipserve: ready at {url} (models served: {served}, refused: {refused}; see {url}/docs)")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the jobs first: whoever waits for one would hold up the end."""
        await self._jobs.stop()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, taken before models are loaded, so that a port in use is told at once.

    Raises:
        click.ClickException: the address is not to be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family)
    except OSError as error:
        hint = "; choose another with --port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else ""
        reason = str(error.strerror).partition(" (while")[0]  # the rest repeats the address
        raise click.ClickException(f"cannot listen on {host} port {port}: {reason}{hint}") from error
    # Connections inherit this. Without it an answer's body waits 40 ms for the client to
    # acknowledge the headers: asyncio sets it only where a socket's protocol number is given.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()


def _options(command: Any) -> Any:
    """One flag for each setting, so that a setting is described once."""
    for name, field in reversed(Settings.model_fields.items()):
        default = "" if field.default is None else f"default: {field.default}; "
        command = click.option(
            _flag(name),
            name,
            metavar=(get_args(field.annotation) or (field.annotation,))[0].__name__.upper(),
            help=f"{field.description}  [{default}environment: {_variable(name)}]",
        )(command)
    return command


def read_settings(flags: Mapping[str, str | None]) -> Settings:
    """Settings from the flags that were given, the environment, and the defaults.

    Raises:
        click.UsageError: a value makes no sense; names the flag or the variable.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        origin = _flag(name) if flags.get(name) is not None else _variable(name)
        raise click.UsageError(f"{origin} is '{first['input']}'. {first['msg']}.") from None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@_options
@click.version_option(__version__, prog_name="lipserve")
def main(**flags: str | None) -> None:
    """Serves the ONNX models of a folder, each answer with its certified radius."""
    for number in (signal.SIGINT, signal.SIGTERM):  # while models load; the server takes them over
        signal.signal(number, lambda *_: sys.exit(0))
    settings = read_settings(flags)
    sock = listen(settings.host, settings.port)
    try:
        app = create_app(settings)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    registry = app.state.service.registry
    for name, reason in registry.refused.items():
        click.echo(f"lipserve: {settings.models / name}.onnx is refused: {reason}", err=True)
    if registry.fault:
        click.echo(f"lipserve: {settings.models}: {registry.fault}", err=True)
    Server(app, settings).run(sockets=[sock])


if __name__ == "__main__":
    main()
