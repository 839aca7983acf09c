"""``lipserve`` with one model named 'model' and an API key, as it is compared with peers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.lipserve import COMMAND, Lipserve
from benchmarks.wire import PREDICT, PREDICT_NPY, V2_BINARY, V2_JSON, Answers, Array, Wire
from lipmodel.certify.predictor import CertifiedPredictor

DTYPES = {"float64": np.float64, "float32": np.float32}


@dataclass(frozen=True)
class Ours:
    """One configuration of ``lipserve``."""

    name: str
    wires: tuple[Wire, ...]
    execution: str = "float64"
    workers: int = 1
    environment: Mapping[str, str] | None = None
    kind = "ours"

    def start(self, content: bytes, folder: Path) -> tuple[Lipserve, dict[str, str]]:
        """Return a server, which may not listen yet, and the headers with which it accepts requests."""
        models = prepare(folder, content, self.execution)
        headers = {"Authorization": f"Bearer {make_key(models, self.environment)}"}
        workers = ["--workers", self.workers] if self.workers > 1 else []
        return Lipserve(models, *workers, environment=self.environment), headers

    def expected(self, content: bytes) -> Callable[[Array], Answers]:
        """Return a function of inputs (N, d): their answers, computed in process."""
        predictor = CertifiedPredictor(content)

        def answers(x: Array) -> Answers:
            found = predictor.predict(x, execution=DTYPES[self.execution])
            label, radius = found.radii.label, found.radii.certified_radius
            return {"scores": found.scores, "label_index": label, "certified_radius": radius}

        return answers


OURS = (
    Ours("lipserve", (PREDICT, PREDICT_NPY, V2_JSON, V2_BINARY)),
    Ours("lipserve, float32", (PREDICT, V2_BINARY), execution="float32"),
    Ours("lipserve, 2 workers", (PREDICT, V2_BINARY), workers=2),
)


def prepare(folder: Path, content: bytes, execution: str) -> Path:
    """Return a new folder of models, below a folder, with one model."""
    models = folder / "models"
    models.mkdir(parents=True)
    (models / "model.onnx").write_bytes(content)
    (models / "model.toml").write_text(f'[serving]\nexecution = "{execution}"\n')
    return models


def make_key(models: Path, environment: Mapping[str, str] | None = None) -> str:
    """Return a new API key for predictions; after this, the server accepts no request without a key."""
    command = [*COMMAND, "--models", str(models)]
    command += ["keys", "create", "--name", "benchmark", "--scope", "predict"]
    variables = {**os.environ, **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=variables).stdout.strip()
