"""The parts that ``create_app`` joins, and functions that open those that the settings ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lipmodel.errors import SignatureError
from service.auth.authenticator import Authenticator
from service.budget import Budget
from service.database.connect import StoreError
from service.inference.attack_search import AttackSearch
from service.inference.engine import Engine
from service.inference.pipeline import PredictionPipeline
from service.jobs.queue import Jobs
from service.jobs.state_folder import StateFolder
from service.jobs.store import Store
from service.models.admin import ModelAdmin
from service.models.object_store import Mirror, MirrorError
from service.models.registry import Registry
from service.models.watcher import Models
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.multiprocess import SharedMetrics

if TYPE_CHECKING:  # cryptography takes memory that a service without keys and tokens need not pay
    from service.auth.tokens import TokenVerifier
    from service.inference.signer import Signer


@dataclass(frozen=True)
class Service:
    """The parts of one serving process."""

    settings: Settings
    models: Models
    admin: ModelAdmin
    engine: Engine
    pipeline: PredictionPipeline
    jobs: Jobs
    attacker: AttackSearch
    spooled: Budget
    shared_metrics: SharedMetrics
    authenticator: Authenticator
    signer: Signer | None = None

    @property
    def registry(self) -> Registry:
        """The present state of the models folder. Read it once in a request, for a consistent view."""
        return self.models.current

    @property
    def metrics(self) -> Metrics:
        """The metrics of this process alone."""
        return self.shared_metrics.metrics


def open_jobs(settings: Settings, worker: int = 0) -> Jobs:
    """Open the job queue of a process on the state folder and the database of the settings.

    Raises:
        StoreError: the folder or the database cannot be used.
    """
    folder = StateFolder(settings.state_folder, worker)
    try:
        store = Store(settings.database_url, folder.server)
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
        max_bytes=settings.job_bytes,
    )


def open_mirror(settings: Settings) -> Mirror | None:
    """Open the object store that the models folder mirrors; return None where the settings name none.

    Raises:
        MirrorError: the store cannot be used, or the settings also allow uploads, which it would not know of.
        MissingExtraError: the package that reads the store is not installed.
    """
    if settings.models_url is None:
        return None
    if settings.uploads:
        raise MirrorError(
            "models_url and uploads exclude each other: with models_url, put models into the object store"
        )
    return Mirror(settings.models_url, settings.models, settings.models_url_seconds)


def open_tokens(settings: Settings) -> TokenVerifier | None:
    """Open the verifier of tokens; return None where the settings name no identity provider.

    Raises:
        SignatureError: the provider's keys cannot be read, or the issuer or audience is not set.
    """
    if settings.jwt_jwks is None:
        return None
    if settings.jwt_issuer is None or settings.jwt_audience is None:
        raise SignatureError("jwt_jwks also needs jwt_issuer and jwt_audience, which tokens must name")
    from service.auth.tokens import TokenVerifier

    return TokenVerifier(settings.jwt_jwks, settings.jwt_issuer, settings.jwt_audience)


def open_signer(settings: Settings) -> Signer | None:
    """Open the signer of certificates; return None where the settings name no keys.

    Raises:
        SignatureError: the keys cannot be used.
    """
    if settings.signing_keys is None:
        return None
    from service.inference.signer import Signer

    return Signer(settings.signing_keys, settings.issuer)
