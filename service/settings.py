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
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    threads: int = Field(1, ge=1, description="Threads that onnxruntime uses within one operator.")
    max_rows: int = Field(10_000, ge=1, description="Most inputs in one request.")
    max_tightened_rows: int = Field(
        100, ge=1, description="Most inputs in one request that asks for tighter, slower radii."
    )
    max_body_bytes: int = Field(16 * 2**20, ge=1, description="Most bytes in the body of one request.")
    max_audit_samples: int = Field(10_000, ge=1, description="Most points that one audit may sample.")
    shutdown_seconds: int = Field(
        8, ge=0, description="How long requests in flight may go on after SIGINT or SIGTERM."
    )
