"""What a model must stand before it is served; the same here and in the process that checks files."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.radius import FEW_SCORES
from lipmodel.errors import ModelError, UnsupportedError
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


def ready_for_all(predictor: CertifiedPredictor) -> CertifiedPredictor:
    """Return the predictor with everything done that any settings of the model may ask for at load.

    Raises:
        ModelError: as :func:`made_ready`.
    """
    made_ready(predictor)
    for norm in Norm:
        predictor.prepare(norm)
        with suppress(UnsupportedError):  # float32 execution is refused when it is asked for
            predictor.executing(np.float32).prepare(norm)
    return predictor
