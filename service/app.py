"""The application, and the ``lipserve`` command."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp

from lipmodel import __version__
from lipmodel.errors import LipcertError, SignatureError
from service.api import (
    attacks,
    audits,
    certificates,
    drift,
    evaluations,
    infer,
    models,
    page,
    predict,
    reports,
    samples,
    v2,
)
from service.api import model_admin as changes
from service.api import operations as ops
from service.api.context import Service
from service.api.openapi import describe
from service.auth.admission import Admission, Guard
from service.auth.api_keys import KeyStore
from service.auth.authenticator import Access
from service.auth.origins import Origins
from service.auth.rate_limits import Limits
from service.budget import FREE_BYTES, Budget
from service.cli.keys import keys
from service.cli.options import options, read_settings, variable
from service.cli.supervisor import Supervisor, WorkersError
from service.database.connect import StoreError
from service.http.fast_path import Direct
from service.http.instrumentation import Observed, Requests
from service.http.server import Server, end_process, listen, listen_together, url_of
from service.inference.attack_search import Attacker
from service.inference.engine import Engine
from service.jobs.queue import Jobs
from service.jobs.state_folder import StateFolder, sweep_metrics
from service.jobs.store import Store
from service.models.admin import Changes
from service.models.checks import Checks
from service.models.load_requests import LoadRequests
from service.models.object_store import Mirror, MirrorError
from service.models.verdicts import Verdicts
from service.models.watcher import Models
from service.models.writer import sweep
from service.problems import ProblemKind, install_handlers
from service.settings import Settings
from service.startup import keep_what_is_loaded, use_little_memory
from service.telemetry import logs, tracing
from service.telemetry.drift import Served
from service.telemetry.metrics import Metrics
from service.telemetry.multiprocess import SharedMetrics

if TYPE_CHECKING:  # what they import takes memory that a service without them need not pay
    from service.auth.tokens import Tokens
    from service.inference.signer import Signer

DESCRIPTION = """\
Predictions with **certified radii**: no change of the input within the radius changes the label,
proved from the weights in the model's file.

Whatever goes wrong is answered as a problem of RFC 9457 (`application/problem+json`), whose `type` is one of:

| type | status | meaning |
|---|---|---|
""" + "\n".join(f"| `{k.uri}` | {k.status} | {k.title}. {k.advice} |" for k in ProblemKind)


SPOOLED_FORMS = 4
"""Forms of the largest size whose files may be on the disk at one time."""
GROUPS = (
    predict,
    infer,
    v2,
    certificates,
    models,
    samples,
    changes,
    attacks,
    audits,
    evaluations,
    reports,
    drift,
    ops,
    page,
)


def create_app(settings: Settings, *, worker: int = 0, metrics_folder: Path | None = None) -> FastAPI:
    """The application, with those models of the folder loaded whose files were checked before.

    Args:
        settings: of the service.
        worker: which of its processes this is.
        metrics_folder: where the processes keep their metrics for one another; None for only one.

    Raises:
        StoreError: jobs cannot be kept where the settings say.
        MissingExtraError: the environment asks for traces, which are not installed.
        SignatureError: keys to sign or to verify with cannot be used.
    """
    with suppress(FileNotFoundError):
        tempfile.gettempdir()  # writes to find out, so a disk that is full later must not be asked first
    traces, signer, tokens = tracing.from_environment(), open_signer(settings), open_tokens(settings)
    jobs, metrics = open_jobs(settings, worker), Metrics(Served())
    if metrics_folder is not None and worker == 0:
        sweep_metrics(metrics_folder)
    verdicts = Verdicts.beside_jobs(settings)
    checks = Checks(verdicts, seconds=settings.check_seconds, max_bytes=settings.check_bytes)
    found = Models(
        settings.models,
        checks,
        checks_here=worker == 0,
        threads=settings.threads,
        poll_seconds=settings.poll_seconds,
        mirror=None if worker else open_mirror(settings),
        requests=LoadRequests(settings.state_folder / "loads.json"),
    )
    shared, engine = SharedMetrics(metrics, metrics_folder, worker), Engine(settings, metrics)
    service = Service(
        settings,
        found,
        Changes(found, checks),
        engine,
        jobs,
        Attacker(engine.slow),
        Budget(SPOOLED_FORMS * settings.max_upload_bytes, "max_upload_bytes"),
        shared,
        signer,
    )
    access = Access(KeyStore.beside_jobs(settings), tokens)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await jobs.start()
        found.start()
        await access.start()
        writing = asyncio.create_task(shared.keep_writing())
        yield
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
        await access.stop()
        found.stop()
        checks.stop()
        verdicts.close()
        await jobs.stop()
        jobs.close()
        service.engine.close()
        if traces is not None:
            traces.close()

    app = Application(
        title="Lipcert",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # the framework's would load scripts from elsewhere; ours is in service.api.page
        redoc_url=None,
        redirect_slashes=False,  # a path that is not ours is a 404, not a redirect to a guess
        telemetry={"tracing": False, "metrics": False, "logs": False},  # Observed traces and counts, once
    )
    app.state.service = service
    app.state.access = access
    app.state.budget = Budget(settings.max_buffered_bytes, "max_buffered_bytes", FREE_BYTES)
    install_handlers(app)
    limits = Limits(settings.requests_per_second, settings.requests_at_a_time)
    origins = Origins([settings.host, *(settings.allowed_hosts or "").split(",")])
    admission = Admission(access, origins, limits, settings.max_header_bytes)
    requests = Requests(shared.metrics, access_log=settings.access_log)
    app.state.admission = admission
    app.state.direct = None if traces else Direct(service, admission, requests)
    app.add_middleware(Guard, admission=admission)
    for group in GROUPS:
        app.include_router(group.router)
    describe(app)
    app.add_middleware(Observed, requests=requests, tracing=traces)  # the last one added is the outermost
    return app


def open_jobs(settings: Settings, worker: int = 0) -> Jobs:
    """The jobs that are kept where the settings say.

    Raises:
        StoreError: the folder or the database cannot be used.
    """
    folder = StateFolder(settings.state_folder, worker)
    try:
        store = Store(settings.database or folder.database, folder.server)
    except StoreError:
        folder.close()
        raise
    return Jobs(
        store,
        folder,
        workers=settings.job_workers,
        max_queued=settings.max_queued,
        kept=settings.kept_jobs,
        seconds=settings.job_seconds,
        most_bytes=settings.job_bytes,
    )


def open_mirror(settings: Settings) -> Mirror | None:
    """What keeps the models folder like an object store, if the settings name one.

    Raises:
        MirrorError: it cannot be used, or models are to be uploaded, which it would not know of.
        MissingExtraError: what reads it is not installed.
    """
    if settings.models_url is None:
        return None
    if settings.uploads:
        raise MirrorError("with models_url models are put into the store, so uploads cannot be allowed")
    return Mirror(settings.models_url, settings.models, settings.models_url_seconds)


def ready_line(app: FastAPI) -> str:
    """The one line that scripts wait for, but for places where ``url`` and ``workers`` are put."""
    registry = app.state.service.registry
    models = f"models served: {len(registry.served)}, refused: {len(registry.refused)}"
    if registry.checking:
        models += f", being checked: {registry.checking}"
    if not registry.models:
        models = "no models yet"
    return f"lipserve: ready at {{url}} ({models}{{workers}}; see {{url}}/docs)"


def open_tokens(settings: Settings) -> Tokens | None:
    """What verifies tokens, if the settings name an identity provider.

    Raises:
        SignatureError: its keys cannot be read, or what tokens must name is not set.
    """
    if settings.jwt_jwks is None:
        return None
    if settings.jwt_issuer is None or settings.jwt_audience is None:
        raise SignatureError("jwt_jwks needs jwt_issuer and jwt_audience beside it, which tokens must name")
    from service.auth.tokens import Tokens

    return Tokens(settings.jwt_jwks, settings.jwt_issuer, settings.jwt_audience)


def open_signer(settings: Settings) -> Signer | None:
    """What signs certificates, if the settings name keys.

    Raises:
        SignatureError: they cannot be used.
    """
    if settings.signing_keys is None:
        return None
    from service.inference.signer import Signer

    return Signer(settings.signing_keys, settings.issuer)


class Application(FastAPI):
    """With no layers but ours outside of the routes."""

    def build_middleware_stack(self) -> ASGIApp:
        """The routes in our layers.

        The framework puts others outside: one that answers what nobody catches, which ours do, and two that
        are not in use here.
        """
        app: ASGIApp = ExceptionMiddleware(
            AsyncExitStackMiddleware(self.router), handlers=self.exception_handlers
        )
        for layer, args, keywords in reversed(self.user_middleware):
            app = layer(app, *args, **keywords)
        return app


class StrangersError(LipcertError):
    """Anybody could ask, whom nobody wanted to let in."""


def refuse_strangers(app: FastAPI, sock: socket.socket) -> None:
    """Makes sure that who comes from other machines must say who they are, or need not by somebody's will.

    Raises:
        StrangersError: neither.
    """
    address = sock.getsockname()[0]
    known = app.state.access.required or app.state.service.settings.no_auth
    if not (known or ipaddress.ip_address(address).is_loopback):
        raise StrangersError(
            f"{address} can be reached from other machines and nobody would have to say who they are; "
            "make a key with 'lipserve keys create', accept tokens with --jwt-jwks, or give --no-auth"
        )


def tell_refusals(app: FastAPI) -> None:
    """Says which files are not served, and why."""
    service = app.state.service
    for name, reason in service.registry.refused.items():
        line = f"lipserve: {service.settings.models / name} is refused: {reason}"
        click.echo(logs.printable(line), err=True)
    if service.registry.fault:
        line = f"lipserve: {service.settings.models}: {service.registry.fault}"
        click.echo(logs.printable(line), err=True)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@options
@click.option(
    "--config",
    metavar="FILE",
    envvar=variable("config"),
    help=f"TOML file of settings; flags and environment win over it.  [environment: {variable('config')}]",
)
@click.version_option(__version__, prog_name="lipserve")
@click.pass_context
def main(context: click.Context, /, config: str | None, **flags: str | None) -> None:
    """Serves the ONNX models of a folder, each answer with its certified radius."""
    context.obj = read_settings(flags, config)
    if context.invoked_subcommand is None:
        serve(context.obj)


main.add_command(keys)


def require_folders(settings: Settings) -> None:
    """Refuse folders that are not there: misspelt, or not mounted, nothing would be found in them.

    Raises:
        click.UsageError: names the folder and its setting.
    """
    made = settings.models_url is not None  # the models folder, when models are copied into it
    for name, folder in (("models", None if made else settings.models), ("data", settings.data)):
        if folder is not None and not os.path.isdir(folder):
            raise click.UsageError(f"--{name}: there is no folder {folder}; make it, or name another")


def serve(settings: Settings) -> None:
    """Serves until it is told to stop.

    Raises:
        click.ClickException: the settings cannot be followed here; says why.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # while models load; the server takes them over
        signal.signal(number, lambda *_: sys.exit(0))
    logs.set_up(settings.log_format)
    require_folders(settings)
    sweep(settings.models)
    try:
        if settings.workers > 1:
            sockets = listen_together(settings.host, settings.port, settings.workers)
            asyncio.run(Supervisor(settings, sockets).run())
        else:
            serve_here(settings, listen(settings.host, settings.port))
    except (LipcertError, WorkersError) as error:
        raise click.ClickException(str(error)) from None


def serve_here(settings: Settings, sock: socket.socket) -> None:
    """In this process."""
    with sock:
        app = create_app(settings)
        refuse_strangers(app, sock)
        use_little_memory(settings.state_folder)
        url = url_of(sock)

        def ready() -> None:
            keep_what_is_loaded()
            tell_refusals(app)
            click.echo(ready_line(app).format(url=url, workers=""))

        Server(app, settings, ready, end_process).run(sockets=[sock])
