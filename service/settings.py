"""The settings of the service, with defaults that are safe on a laptop."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ENVIRONMENT_PREFIX = "LIPSERVE_"


class Settings(BaseSettings):
    """Settings of one service, made once and passed in; a flag of ``lipserve`` wins over the environment.

    The description of a field is its only documentation: ``lipserve --help`` is made from it.

    Raises:
        pydantic.ValidationError: a value, given here or in the environment, is invalid.
    """

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, env_ignore_empty=True, frozen=True)

    models: Path = Field(Path("models"), description="Folder of the *.onnx files to serve.")
    models_url: str | None = Field(
        None, description="Object store to mirror into the models folder: s3://…, gs://…"
    )
    models_url_seconds: float = Field(10, gt=0, description="Seconds between polls of the object store.")
    state: Path | None = Field(
        None,
        description="Folder for jobs and their results; by default MODELS.state, beside the models folder.",
    )
    database: str | None = Field(
        None,
        description="URL of the job database, postgresql+psycopg://…; default: SQLite in the state folder.",
    )
    data: Path | None = Field(
        None,
        description="Folder of data files that evaluations may name by path; by default none may be named.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free port.")
    poll_seconds: float = Field(1.0, ge=0.01, description="Seconds between polls of the models folder.")
    uploads: bool = Field(False, description="Allow models to be uploaded, removed and labelled over HTTP.")
    max_model_bytes: int = Field(
        256 * 2**20, ge=1, description="Maximum size of an uploaded model, in bytes."
    )
    check_seconds: float = Field(
        60, gt=0, le=86_400, description="Maximum processor time for the check of a model file, in seconds."
    )
    check_bytes: int = Field(
        2**30,
        ge=2**28,
        description="Memory limit of the check of a model file, in bytes; less in a container with less.",
    )
    threads: int = Field(1, ge=1, description="Threads of onnxruntime within one operator.")
    max_rows: int = Field(10_000, ge=1, description="Maximum inputs in one request.")
    max_tightened_rows: int = Field(
        100, ge=1, description="Maximum inputs in one request with 'tighten' or 'certificate'."
    )
    tighten_seconds: float = Field(
        5,
        gt=0,
        description="Time limit for tightening the radii of one request, in seconds; then those proved "
        "so far are returned.",
    )
    max_body_bytes: int = Field(16 * 2**20, ge=1, description="Maximum size of a request body, in bytes.")
    max_buffered_bytes: int = Field(
        96 * 2**20,
        ge=4 * 2**20,
        description="Maximum memory for all requests and responses together, in bytes, besides 16 KiB each.",
    )
    max_audit_samples: int = Field(10_000, ge=1, description="Maximum points sampled by one audit.")
    max_attacked: int = Field(1000, ge=0, description="Maximum inputs attacked by one evaluation.")
    max_upload_bytes: int = Field(
        256 * 2**20, ge=1, description="Maximum size of data uploaded for an evaluation, in bytes."
    )
    max_data_bytes: int = Field(
        2**30, ge=1, description="Maximum size of that data once decompressed, in bytes."
    )
    job_workers: int = Field(
        1, ge=1, description="Audits and evaluations run at a time by each worker, a process for each."
    )
    max_queued: int = Field(32, ge=1, description="Maximum audits and evaluations queued, for each worker.")
    kept_jobs: int = Field(
        10_000, ge=1, description="Finished audits and evaluations to keep; the oldest are deleted."
    )
    job_seconds: float = Field(3600, gt=0, description="Time limit of one audit or evaluation, in seconds.")
    job_bytes: int = Field(
        8 * 2**30, ge=2**28, description="Memory limit of one audit or evaluation, in bytes."
    )
    workers: int = Field(1, ge=1, le=256, description="Processes that serve requests, each with all models.")
    drain_seconds: float = Field(
        1, ge=0, description="Seconds after SIGINT or SIGTERM in which new requests are still answered."
    )
    shutdown_seconds: int = Field(8, ge=0, description="Seconds after that for requests in flight to finish.")
    log_format: Literal["text", "json"] = Field("text", description="Format of the log: text or json.")
    access_log: bool = Field(False, description="Log every request.")
    no_auth: bool = Field(
        False, description="Allow a non-loopback address without authentication (no API keys and no tokens)."
    )
    allowed_hosts: str | None = Field(
        None,
        description="Comma-separated host names accepted in requests without a credential, besides "
        "localhost and IP addresses.",
    )
    jwt_jwks: str | None = Field(
        None,
        description="File or https URL of the JSON Web Key Set of an identity provider; accepts its tokens.",
    )
    jwt_issuer: str | None = Field(None, description="Required issuer (iss) of tokens.")
    jwt_audience: str | None = Field(None, description="Required audience (aud) of tokens.")
    requests_per_second: float | None = Field(
        None, gt=0, description="Maximum requests per second from one caller; by default unlimited."
    )
    requests_at_a_time: int | None = Field(
        None, ge=1, description="Maximum requests in flight from one caller; by default unlimited."
    )
    max_connections: int = Field(
        1000, ge=1, description="Maximum open connections; beyond that, an idle connection is closed."
    )
    forwarded_allow_ips: str | None = Field(
        None, description="Comma-separated addresses of proxies to trust for X-Forwarded-For."
    )
    max_header_bytes: int = Field(
        32_768, ge=1024, description="Maximum size of the headers of a request, in bytes."
    )
    request_seconds: float = Field(
        60,
        gt=0,
        description="Time limit for the headers of a request to arrive, and again for its body, in seconds.",
    )
    signing_keys: Path | None = Field(
        None, description="File of the keys to sign certificates with (see lipserve keys new-signing)."
    )
    issuer: str = Field("lipserve", min_length=1, description="Issuer (iss) of signed certificates.")

    @property
    def state_folder(self) -> Path:
        """Folder of jobs and their results."""
        return self.state or self.models.with_name(self.models.name + ".state")

    @property
    def database_url(self) -> str:
        """URL of the database: of SQLite in the state folder by default."""
        return self.database or f"sqlite:///{self.state_folder / 'jobs.sqlite'}"
