"""An opened certificate against itself, and against the model and the input that it speaks of.

What is computed again is computed by the code that serves. On another processor sums may be taken in another
order, so scores may differ by what is proved of rounding, and bounds by a last digit; a number is the
same here if it differs by no more than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lipmodel.certify.certificate import digest
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError
from lipmodel.signed.answers import answers
from lipmodel.signed.claims import Answer, PairBounds
from lipmodel.verify.consistency import Check

SAME = 2.0**-40
"""How much, relatively, a bound computed on another processor may differ."""


@dataclass(frozen=True)
class Compared(Check):
    """A statement, and the same as it was computed again.

    Attributes:
        stated: the number or name that was signed.
        computed: what it is, or of a radius from bounds what it may be at most.
    """

    stated: Any = None
    computed: Any = None


def check_answer(
    answer: Answer,
    model: CertifiedPredictor | Path | bytes | None = None,
    given: ArrayLike | None = None,
) -> list[Check]:
    """The statements that can be checked with what is given; all numbers with both model and input.

    Raises:
        ModelError: the model given is refused.
    """
    checks = [_radius(answer)]
    predictor = CertifiedPredictor(model) if isinstance(model, Path | bytes) else model
    x = None
    if predictor is not None:
        checks.append(_same("digest of the model", answer.model_sha256, predictor.file.sha256))
    if given is not None:
        x = np.asarray(given, dtype=np.float64).ravel()
        checks.append(_same("size of the input", answer.input_size, x.size))
        checks.append(_same("digest of the input", answer.input_sha256, digest(x.tolist())))
    if predictor is None or x is None or not all(check.passed for check in checks[1:]):
        return checks
    try:
        x = predictor.check_inputs(x[None])
        predictions = predictor.predict(x, answer.norm, tighten=answer.method != "lipschitz")
        (found,) = answers(predictor, x, predictions)
    except InputError as error:
        return [*checks, Check("answer", f"the model gives none: {error}")]
    return checks + _compare(answer, found)


def _radius(answer: Answer) -> Check:
    name, radius = "radius from the stated bounds", answer.certified_radius
    if answer.method == "local":
        return Check(name)  # which take the model
    follows = radius == 0.0 or answer.bounds.supports(radius, answer.input_size)
    reason = "" if follows else f"states {radius!r}, which does not follow from them"
    return Compared(name, reason, radius, answer.bounds.largest_radius(answer.input_size))


def _compare(stated: Answer, found: Answer) -> list[Check]:
    """Each number by itself."""
    bounds = found.bounds
    error, speed = 2.0 * bounds.bound_error, bounds.bound_lipschitz
    checks = [
        _same(name, getattr(stated, name), getattr(found, name))
        for name in ("label", "label_index", "runner_up", "runner_up_index", "method")
    ]
    checks.append(_near("margin", stated.margin, found.margin, error))
    reach = error / speed if speed else 0.0
    checks.append(_near("certified_radius", stated.certified_radius, found.certified_radius, reach))
    checks.append(_same("bounds.rival", stated.bounds.rival, bounds.rival))
    checks.append(_same("bounds.mixture", stated.bounds.mixture, bounds.mixture))
    for name in PairBounds.__dataclass_fields__:
        if name.startswith("bound_"):
            allowed = error if name == "bound_lead" else 0.0
            checks.append(
                _near(f"bounds.{name}", getattr(stated.bounds, name), getattr(bounds, name), allowed)
            )
    return checks


def _same(name: str, stated: Any, found: Any) -> Check:
    reason = "" if stated == found else f"states {stated!r}; it is {found!r}"
    return Compared(name, reason, stated, found)


def _near(name: str, stated: float, found: float, allowed: float) -> Check:
    near = abs(stated - found) <= allowed + SAME * abs(found)
    reason = "" if near else f"states {stated!r}; computed again it is {found!r}"
    return Compared(name, reason, stated, found)
