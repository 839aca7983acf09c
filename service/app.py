"""The application, made by ``create_app`` from the settings."""

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
    audits,
    certificates,
    drift,
    evaluations,
    model_admin,
    models,
    operations,
    page,
    predict,
    v2,
)
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
from service.inference.attack_search import AttackSearch
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

Errors are reported as RFC 9457 problems (`application/problem+json`) of these types:

| type | status | meaning |
|---|---|---|
""" + "\n".join(f"| `{k.uri}` | {k.status} | {k.title}. {k.advice} |" for k in ProblemKind)


SPOOLED_FORMS = 4
"""Number of forms of maximum size with files on disk at the same time."""
GROUPS = (predict, v2, certificates, models, model_admin, audits, evaluations, drift, operations, page)


def create_app(settings: Settings, *, worker: int = 0, metrics_folder: Path | None = None) -> FastAPI:
    """Return the application, with the models loaded that were checked by an earlier process.

    Args:
        settings: settings of the service.
        worker: number of this process.
        metrics_folder: folder for metrics shared between processes; None for a single process.

    Raises:
        StoreError: the state folder or the job database cannot be used.
        MissingExtraError: the environment configures traces, but the packages are not installed.
        SignatureError: keys for signing or verification cannot be used.
    """
    with suppress(FileNotFoundError):
        tempfile.gettempdir()  # writes a file once, which must not first happen on a full disk later
    traces, signer, tokens = tracing.from_environment(), open_signer(settings), open_tokens(settings)
    jobs, metrics = open_jobs(settings, worker), Metrics()
    if metrics_folder is not None and worker == 0:
        sweep_metrics(metrics_folder)
    verdicts = Verdicts(settings.database_url)
    checks = Checks(verdicts, seconds=settings.check_seconds, max_bytes=settings.check_bytes)
    found = Models(
        settings.models,
        checks,
        LoadRequests(settings.state_folder / "loads.json"),
        checks_here=worker == 0,
        threads=settings.threads,
        poll_seconds=settings.poll_seconds,
        mirror=None if worker else open_mirror(settings),
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
        AttackSearch(engine.slow),
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
        docs_url=None,  # the framework's page loads scripts from other hosts; see service.api.page
        redoc_url=None,
        redirect_slashes=False,  # an unknown path is a 404, not a redirect to a similar path
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
    """FastAPI with no middleware outside the routes but that of this service."""

    def build_middleware_stack(self) -> ASGIApp:
        """Return the routes within the middleware that was added.

        The framework would add outer layers: one for uncaught exceptions, which the instrumentation handles,
        and two that are unused here.
        """
        app: ASGIApp = ExceptionMiddleware(
            AsyncExitStackMiddleware(self.router), handlers=self.exception_handlers
        )
        for layer, args, keywords in reversed(self.user_middleware):
            app = layer(app, *args, **keywords)
        return app
