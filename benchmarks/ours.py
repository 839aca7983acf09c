"""``lipserve`` as benchmarks run it: a process of its own, one model named 'model'."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.processes import Tree
from benchmarks.wire import PREDICT, PREDICT_NPY, V2_BINARY, V2_JSON, Answers, Array, Wire
from lipmodel.certify.predictor import CertifiedPredictor

COMMAND = [sys.executable, "-m", "service"]
DTYPES = {"float64": np.float64, "float32": np.float32}


@dataclass(frozen=True)
class Ours:
    """One way to run it."""

    name: str
    wires: tuple[Wire, ...]
    execution: str = "float64"
    workers: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    kind = "ours"

    def start(self, content: bytes, folder: Path, port: int, log: Path) -> tuple[Tree, dict[str, str]]:
        """The server, which may not listen yet, and the headers that it asks for."""
        flags = prepare(folder, content, self.execution)
        headers = {"Authorization": f"Bearer {make_key(flags, self.environment)}"}
        workers = ["--workers", str(self.workers)] if self.workers > 1 else []
        return Tree([*COMMAND, *flags, "--port", str(port), *workers], log, self.environment), headers

    def expected(self, content: bytes) -> Callable[[Array], Answers]:
        """The true answers to inputs."""
        predictor = CertifiedPredictor(content)

        def answers(x: Array) -> Answers:
            found = predictor.predict(x, execution=DTYPES[self.execution])
            radii = found.radii
            return {
                "scores": found.scores,
                "label_index": radii.label,
                "certified_radius": radii.certified_radius,
            }

        return answers


OURS = (
    Ours("lipserve", (PREDICT, PREDICT_NPY, V2_JSON, V2_BINARY)),
    Ours("lipserve, float32", (PREDICT, V2_BINARY), execution="float32"),
    Ours("lipserve, 2 workers", (PREDICT, V2_BINARY), workers=2),
)


def prepare(folder: Path, content: bytes, execution: str) -> list[str]:
    """Puts a model in a new folder; the flags that name it."""
    models = folder / "models"
    models.mkdir(parents=True)
    (models / "model.onnx").write_bytes(content)
    (models / "model.toml").write_text(f'[serving]\nexecution = "{execution}"\n')
    return ["--models", str(models)]


def make_key(flags: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Return a key for predictions; from then on every request needs one."""
    command = [*COMMAND, *flags, "keys", "create", "--name", "benchmark", "--scope", "predict"]
    variables = os.environ | dict(environment or {})
    return subprocess.run(command, capture_output=True, text=True, check=True, env=variables).stdout.strip()
