"""Measure the tightness of certified radii against the nearest adversarial inputs that attacks find."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.registry import find_nearest
from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError
from lipmodel.norms import Norm
from lipmodel.progress import Progress, silent
from lipmodel.threat import BALLS


@dataclass(frozen=True)
class Tightness:
    """Ratios of radius to the distance of the nearest adversarial input: at most 1, 1 for an exact radius.

    Attributes:
        norm: norm of the radii.
        points: number of inputs compared: those with a radius above 0 and an adversarial input.
        lipschitz: median ratio of the radii from Lipschitz bounds.
        local: median ratio of the tightened radii; None if tightening is not available.
        lipschitz_seconds: seconds per input, in the batch.
        local_seconds: median seconds per input.
        improved: share of the inputs whose radius tightening increased.
        reason: reason why tightening is not available.
    """

    norm: Norm
    points: int
    lipschitz: float
    local: float | None
    lipschitz_seconds: float
    local_seconds: float | None
    improved: float
    reason: str | None


def measure_tightness(
    predictor: CertifiedPredictor,
    inputs: Any,
    norm: Norm | None = None,
    progress: Progress = silent,
) -> Tightness:
    """Compare radii with attacks, before and after tightening, on inputs (N, d).

    Raises:
        InputError: no input has both a radius above 0 and an adversarial input.
    """
    norm = norm or predictor.default_norm
    x = predictor.check_inputs(inputs)
    predictor.predict(x[:1], norm, tighten=True)  # analyses the model, which is not timed
    started = time.perf_counter()
    fast = predictor.predict(x, norm).radii.certified_radius
    fast_seconds = (time.perf_counter() - started) / len(x)
    x, fast = x[fast > 0.0], fast[fast > 0.0]
    if not len(x):
        raise InputError("no input has a certified radius above 0 to compare")
    result = predictor.predict(x, norm, tighten=True)
    slow, tightening = result.radii.certified_radius, result.tightening
    assert tightening is not None
    task = AttackTask(predictor, GradientEngine(predictor.file.graph), x, BALLS[norm])
    attacked = find_nearest(task, progress=progress).distance
    found = np.isfinite(attacked)
    if not found.any():
        raise InputError("no attack found an adversarial input to compare with")
    available = tightening.reason is None
    return Tightness(
        norm=norm,
        points=int(found.sum()),
        lipschitz=float(np.median((fast / attacked)[found])),
        local=float(np.median((slow / attacked)[found])) if available else None,
        lipschitz_seconds=fast_seconds,
        local_seconds=float(np.median(tightening.seconds)) if available else None,
        improved=float((slow > fast)[found].mean()),
        reason=tightening.reason,
    )
