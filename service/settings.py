"""Everything that can be set about the service, with defaults that are safe on a laptop."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ENVIRONMENT_PREFIX = "LIPSERVE_"


class Settings(BaseSettings):
    """One object, made once and passed in; a flag of ``lipserve`` wins over the environment.

    The description of a field is its documentation everywhere: ``lipserve --help`` is made from it.

    Raises:
        pydantic.ValidationError: a value given, here or in the environment, makes no sense.
    """

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True)

    models: Path = Field(Path("models"), description="Folder whose *.onnx files are served.")
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
    threads: int = Field(1, ge=1, description="Threads that onnxruntime uses within one operator.")
    max_rows: int = Field(10_000, ge=1, description="Most inputs in one request.")
    max_tightened_rows: int = Field(
        100, ge=1, description="Most inputs in one request that asks for tighter, slower radii."
    )
    max_body_bytes: int = Field(16 * 2**20, ge=1, description="Most bytes in the body of one request.")
    max_audit_samples: int = Field(10_000, ge=1, description="Most points that one audit may sample.")
    max_attacked: int = Field(1000, ge=0, description="Most inputs that one evaluation may attack.")
    max_upload_bytes: int = Field(256 * 2**20, ge=1, description="Most bytes of data sent for an evaluation.")
    max_data_bytes: int = Field(2**30, ge=1, description="Most bytes of such data once decompressed.")
    workers: int = Field(1, ge=1, description="Audits and evaluations that run at a time, a process each.")
    max_queued: int = Field(32, ge=1, description="Audits and evaluations that may wait.")
    kept_jobs: int = Field(
        10_000, ge=1, description="Audits and evaluations kept once they have ended; the oldest go."
    )
    job_seconds: float = Field(3600, gt=0, description="How long one audit or evaluation may run.")
    job_bytes: int = Field(8 * 2**30, ge=2**28, description="Memory that one of them may write into.")
    shutdown_seconds: int = Field(
        8, ge=0, description="How long requests in flight may go on after SIGINT or SIGTERM."
    )

    @property
    def state_folder(self) -> Path:
        """Where jobs and their results are kept."""
        return self.state or self.models.with_name(self.models.name + ".state")
