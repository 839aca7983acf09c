"""What a model must stand before it is served; the same here and in the process that checks uploads."""

from __future__ import annotations

import math

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.radius import FEW_SCORES
from lipmodel.errors import ModelError
from lipmodel.norms import Norm


def made_ready(predictor: CertifiedPredictor) -> CertifiedPredictor:
    """The same, with its bounds derived: in all norms where it has few scores, else in its own.

    Raises:
        ModelError: they are so large that nothing can be certified.
    """
    for norm in Norm:
        if norm is predictor.default_norm or len(predictor.head.owners) <= FEW_SCORES:
            predictor.prepare(norm)
        if not math.isfinite(predictor.bounds(norm).bound_global):
            raise ModelError(f"its Lipschitz bound in norm {norm} overflows, so nothing can be certified")
    return predictor
