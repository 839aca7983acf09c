"""The application, and the ``lipserve`` command."""

from __future__ import annotations

import errno
import ipaddress
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, get_args

import click
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from lipmodel import __version__
from lipmodel.errors import SignatureError
from service.access import Access
from service.api import (
    audits,
    certificates,
    changes,
    drift,
    evaluations,
    infer,
    models,
    ops,
    predict,
    reports,
    v2,
)
from service.api.context import Service
from service.api.guard import Guard
from service.api.hot import HotRoutes
from service.api.openapi import describe
from service.arrivals import Arrivals
from service.changes import Changes
from service.database import StoreError
from service.engine import Engine
from service.errors import ProblemKind, install_handlers
from service.folder_changes import sweep
from service.jobs import Jobs
from service.key_commands import keys
from service.keys import KeyStore
from service.limits import Limits
from service.models import Models
from service.settings import ENVIRONMENT_PREFIX, Settings
from service.state_folder import StateFolder
from service.store import Store

if TYPE_CHECKING:  # what they import takes memory that a service without them need not pay
    from service.signing import Signer
    from service.tokens import Tokens

DESCRIPTION = """\
Predictions with **certified radii**: no change of the input within the radius changes the label,
proved from the weights in the model's file.

Whatever goes wrong is answered as a problem of RFC 9457 (`application/problem+json`), whose `type` is one of:

| type | status | meaning |
|---|---|---|
""" + "\n".join(f"| `{k.uri}` | {k.status} | {k.title}. {k.advice} |" for k in ProblemKind)


GROUPS = (predict, infer, v2, certificates, models, changes, audits, evaluations, reports, drift, ops)


def create_app(settings: Settings) -> FastAPI:
    """The application, with the models of the folder loaded.

    Raises:
        StoreError: jobs cannot be kept where the settings say.
        SignatureError: keys to sign or to verify with cannot be used.
    """
    signer, tokens = open_signer(settings), open_tokens(settings)
    jobs = open_jobs(settings)
    if settings.uploads:
        sweep(settings.models)
    found = Models(settings.models, threads=settings.threads, poll_seconds=settings.poll_seconds)
    service = Service(
        settings,
        found,
        Changes(found, seconds=settings.check_seconds, most_bytes=settings.check_bytes),
        Engine(),
        jobs,
        signer,
    )
    access = Access(KeyStore.beside_jobs(settings), tokens)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await jobs.start()
        found.start()
        await access.start()
        yield
        await access.stop()
        found.stop()
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
    app.state.access = access
    install_handlers(app)
    limits = Limits(settings.requests_per_second, settings.requests_at_a_time)
    app.add_middleware(HotRoutes, service=service)
    app.add_middleware(Guard, access=access, limits=limits, header_bytes=settings.max_header_bytes)
    for group in GROUPS:
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


def open_tokens(settings: Settings) -> Tokens | None:
    """What verifies tokens, if the settings name an identity provider.

    Raises:
        SignatureError: its keys cannot be read, or what tokens must name is not set.
    """
    if settings.jwt_jwks is None:
        return None
    if settings.jwt_issuer is None or settings.jwt_audience is None:
        raise SignatureError("jwt_jwks needs jwt_issuer and jwt_audience beside it, which tokens must name")
    from service.tokens import Tokens

    return Tokens(settings.jwt_jwks, settings.jwt_issuer, settings.jwt_audience)


def open_signer(settings: Settings) -> Signer | None:
    """What signs certificates, if the settings name keys.

    Raises:
        SignatureError: they cannot be used.
    """
    if settings.signing_keys is None:
        return None
    from service.signing import Signer

    return Signer(settings.signing_keys, settings.issuer)


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
                limit_concurrency=settings.max_connections + 1,  # it refuses when this many are there
                h11_max_incomplete_event_size=settings.max_header_bytes,
            )
        )
        self._service: Service = app.state.service
        self._arrivals = Arrivals(settings.request_seconds)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts, then prints the one line that scripts wait for."""
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        registry = self._service.registry
        served, refused = len(registry.served), len(registry.refused)
        click.echo(f"lipserve: ready at {url} (models served: {served}, refused: {refused}; see {url}/docs)")

    async def on_tick(self, counter: int) -> bool:
        """Once a second (of ten ticks), looks for requests that do not arrive."""
        if counter % 10 == 0:
            self._arrivals.sweep(self.server_state.connections, time.monotonic())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the jobs first: whoever waits for one would hold up the end."""
        await self._service.jobs.stop()
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
        kind = (get_args(field.annotation) or (field.annotation,))[0]
        shape: dict[str, Any] = {"metavar": kind.__name__.upper()}
        if kind is bool:
            shape = {"is_flag": True, "flag_value": "true", "default": None}
        command = click.option(
            _flag(name),
            name,
            help=f"{field.description}  [{default}environment: {_variable(name)}]",
            **shape,
        )(command)
    return command


def read_settings(flags: Mapping[str, str | bool | None]) -> Settings:
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


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_options
@click.version_option(__version__, prog_name="lipserve")
@click.pass_context
def main(context: click.Context, /, **flags: str | bool | None) -> None:
    """Serves the ONNX models of a folder, each answer with its certified radius."""
    context.obj = read_settings(flags)
    if context.invoked_subcommand is None:
        serve(context.obj)


main.add_command(keys)


def serve(settings: Settings) -> None:
    """Serves until it is told to stop.

    Raises:
        click.ClickException: the settings cannot be followed here; says why.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # while models load; the server takes them over
        signal.signal(number, lambda *_: sys.exit(0))
    sock = listen(settings.host, settings.port)
    try:
        app = create_app(settings)
    except (StoreError, SignatureError) as error:
        raise click.ClickException(str(error)) from None
    address = sock.getsockname()[0]
    if not (app.state.access.required or settings.no_auth or ipaddress.ip_address(address).is_loopback):
        raise click.ClickException(
            f"{address} can be reached from other machines and nobody would have to say who they are; "
            "make a key with 'lipserve keys create', accept tokens with --jwt-jwks, or give --no-auth"
        )
    registry = app.state.service.registry
    for name, reason in registry.refused.items():
        click.echo(f"lipserve: {settings.models / name} is refused: {reason}", err=True)
    if registry.fault:
        click.echo(f"lipserve: {settings.models}: {registry.fault}", err=True)
    Server(app, settings).run(sockets=[sock])


if __name__ == "__main__":
    main()
