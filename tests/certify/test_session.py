"""onnxruntime as we set it up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "examples" / "models" / "two-moons.onnx"
OPEN_ONE = f"""
from pathlib import Path
from lipmodel.certify.predictor import CertifiedPredictor
import numpy as np
CertifiedPredictor(Path({str(DEMO)!r})).predict(np.zeros((1, 2)))
"""
ELSEWHERE = {"CI", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"}


def test_it_keeps_no_telemetry(tmp_path):
    # What it would send it first puts, with an identifier, into the cache folder of who runs it.
    kept = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    subprocess.run([sys.executable, "-c", OPEN_ONE], env={**kept, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []
