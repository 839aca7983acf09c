"""The application: what ``create_app`` makes of the settings."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp

from lipmodel import __version__
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
    v2,
)
from service.api import model_admin as changes
from service.api import operations as ops
from service.api.openapi import describe
from service.auth.admission import Admission, AdmissionMiddleware
from service.auth.api_keys import KeyStore
from service.auth.authenticator import Authenticator
from service.auth.origins import AllowedHosts
from service.auth.rate_limits import RateLimits
from service.budget import FREE_BYTES, Budget
from service.components import Service, open_jobs, open_mirror, open_signer, open_tokens
from service.http.fast_path import FastPath
from service.http.instrumentation import Instrumentation, InstrumentationMiddleware
from service.inference.attack_search import Attacker
from service.inference.engine import Engine
from service.inference.pipeline import PredictionPipeline
from service.jobs.state_folder import sweep_metrics
from service.models.admin import ModelAdmin
from service.models.checks import Checks
from service.models.load_requests import LoadRequests
from service.models.verdicts import Verdicts
from service.models.watcher import Models
from service.problems import ProblemKind, install_handlers
from service.settings import Settings
from service.telemetry import tracing
from service.telemetry.metrics import Metrics
from service.telemetry.multiprocess import SharedMetrics

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
    jobs, metrics = open_jobs(settings, worker), Metrics()
    if metrics_folder is not None and worker == 0:
        sweep_metrics(metrics_folder)
    verdicts = Verdicts(settings.database_url)
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
    authenticator = Authenticator(KeyStore.beside_jobs(settings), tokens)
    shared, engine = SharedMetrics(metrics, metrics_folder, worker), Engine(settings, metrics)
    pipeline = PredictionPipeline(engine, signer, settings, metrics)
    service = Service(
        settings,
        found,
        ModelAdmin(found, checks),
        engine,
        pipeline,
        jobs,
        Attacker(engine.slow),
        Budget(SPOOLED_FORMS * settings.max_upload_bytes, "max_upload_bytes"),
        shared,
        authenticator,
        signer,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await jobs.start()
        found.start()
        await authenticator.start()
        writing = asyncio.create_task(shared.keep_writing())
        yield
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
        await authenticator.stop()
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
        telemetry={"tracing": False, "metrics": False, "logs": False},  # the middleware traces and counts
    )
    app.state.service = service
    app.state.budget = Budget(settings.max_buffered_bytes, "max_buffered_bytes", FREE_BYTES)
    install_handlers(app)
    limits = RateLimits(settings.requests_per_second, settings.requests_at_a_time)
    origins = AllowedHosts([settings.host, *(settings.allowed_hosts or "").split(",")])
    admission = Admission(authenticator, origins, limits, settings.max_header_bytes)
    instrumentation = Instrumentation(shared.metrics, access_log=settings.access_log)
    app.state.admission = admission
    app.state.fast_path = None if traces else FastPath(pipeline, found, admission, instrumentation)
    app.add_middleware(AdmissionMiddleware, admission=admission)
    for group in GROUPS:
        app.include_router(group.router)
    describe(app)
    # The middleware added last is the outermost.
    app.add_middleware(InstrumentationMiddleware, instrumentation=instrumentation, tracing=traces)
    return app


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
