"""Everything that can be set about the service, with defaults that are safe on a laptop."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ENVIRONMENT_PREFIX = "LIPSERVE_"


class Settings(BaseSettings):
    """One object, made once and passed in; a flag of ``lipserve`` wins over the environment.

    The description of a field is its documentation everywhere: ``lipserve --help`` is made from it.

    Raises:
        pydantic.ValidationError: a value given, here or in the environment, makes no sense.
    """

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, env_ignore_empty=True, frozen=True)

    models: Path = Field(Path("models"), description="Folder whose *.onnx files are served.")
    models_url: str | None = Field(
        None,
        description="Object store whose models are copied into that folder, and kept like it: s3://…, gs://…",
    )
    models_url_seconds: float = Field(10, gt=0, description="How often it is looked at for changes.")
    state: Path | None = Field(
        None,
        description="Folder to keep jobs and their results in; by default beside models, named MODELS.state.",
    )
    database: str | None = Field(
        None,
        description="Where jobs are kept instead of a file in the state folder: postgresql+psycopg://…",
    )
    data: Path | None = Field(
        None, description="Folder whose files evaluations may name by path; by default they may name none."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    poll_seconds: float = Field(
        1.0, ge=0.01, description="How often the models folder is looked at for changes."
    )
    uploads: bool = Field(
        False, description="Whether models may be uploaded, removed and labelled over HTTP."
    )
    max_model_bytes: int = Field(256 * 2**20, ge=1, description="Most bytes in an uploaded model.")
    check_seconds: float = Field(
        60, gt=0, le=86_400, description="Processor time that checking a model file may take."
    )
    check_bytes: int = Field(
        2**30,
        ge=2**28,
        description="Memory that this may write into; less where the container has less.",
    )
    threads: int = Field(1, ge=1, description="Threads that onnxruntime uses within one operator.")
    max_rows: int = Field(10_000, ge=1, description="Most inputs in one request.")
    max_tightened_rows: int = Field(
        100,
        ge=1,
        description="Most inputs in one request for tighter, slower radii, or for signed answers.",
    )
    tighten_seconds: float = Field(
        5, gt=0, description="How long radii of one request are tightened; then what is proved is answered."
    )
    max_body_bytes: int = Field(16 * 2**20, ge=1, description="Most bytes in the body of one request.")
    max_buffered_bytes: int = Field(
        96 * 2**20,
        ge=4 * 2**20,
        description="Most bytes of all requests and answers in memory, besides 16 KiB of each.",
    )
    max_audit_samples: int = Field(10_000, ge=1, description="Most points that one audit may sample.")
    max_attacked: int = Field(1000, ge=0, description="Most inputs that one evaluation may attack.")
    max_upload_bytes: int = Field(256 * 2**20, ge=1, description="Most bytes of data sent for an evaluation.")
    max_data_bytes: int = Field(2**30, ge=1, description="Most bytes of such data once decompressed.")
    job_workers: int = Field(
        1, ge=1, description="Audits and evaluations that run at a time, a process each, for each worker."
    )
    max_queued: int = Field(32, ge=1, description="Audits and evaluations that may wait, for each worker.")
    kept_jobs: int = Field(
        10_000, ge=1, description="Audits and evaluations kept once they have ended; the oldest go."
    )
    job_seconds: float = Field(3600, gt=0, description="How long one audit or evaluation may run.")
    job_bytes: int = Field(8 * 2**30, ge=2**28, description="Memory that one of them may write into.")
    workers: int = Field(1, ge=1, le=256, description="Processes that answer requests, each with all models.")
    drain_seconds: float = Field(
        1, ge=0, description="How long new requests are still answered after SIGINT or SIGTERM."
    )
    shutdown_seconds: int = Field(8, ge=0, description="How long requests in flight may go on after that.")
    log_format: Literal["text", "json"] = Field(
        "text", description="What the log is written as: text or json."
    )
    access_log: bool = Field(False, description="Whether every request is logged.")
    no_auth: bool = Field(
        False, description="Listen beyond this machine though no key was ever made and no token is accepted."
    )
    allowed_hosts: str | None = Field(
        None,
        description="Names, separated by commas, under which it may be asked without a credential; "
        "localhost and IP addresses always may.",
    )
    jwt_jwks: str | None = Field(
        None, description="File or https URL of the keys of an identity provider, whose tokens are accepted."
    )
    jwt_issuer: str | None = Field(None, description="Issuer (iss) that such a token must name.")
    jwt_audience: str | None = Field(None, description="Audience (aud) that such a token must name.")
    requests_per_second: float | None = Field(
        None, gt=0, description="Most requests a second of one caller; by default any number."
    )
    requests_at_a_time: int | None = Field(
        None, ge=1, description="Most requests of one caller in flight; by default any number."
    )
    max_connections: int = Field(
        1000, ge=1, description="Most connections; beyond, one that is idle is closed."
    )
    forwarded_allow_ips: str | None = Field(
        None,
        description="Addresses of proxies, separated by commas, whose X-Forwarded-For names the caller.",
    )
    max_header_bytes: int = Field(32_768, ge=1024, description="Most bytes in the headers of one request.")
    request_seconds: float = Field(
        60, gt=0, description="How long the headers of a request, and then its body, may take to arrive."
    )
    signing_keys: Path | None = Field(
        None, description="File of the keys that certificates are signed with (lipserve keys new-signing)."
    )
    issuer: str = Field("lipserve", min_length=1, description="Issuer (iss) named in signed certificates.")

    @property
    def state_folder(self) -> Path:
        """Where jobs and their results are kept."""
        return self.state or self.models.with_name(self.models.name + ".state")
