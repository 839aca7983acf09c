"""Check an opened certificate for consistency, and against its model and input.

Every number is recomputed by the serving code, in the stated execution. Another processor may sum in another
order, so equality is not required: every stated bound must be implied by the bound computed here, and the
radius must be proved here, both exactly. Issuers state weaker bounds to allow for that (``answers.SPARE``); a
certificate that passes is true, however its numbers were obtained.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lipmodel.certificates.format import digest
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.radius import bound_input_rounding
from lipmodel.certify.tight.mixtures import ClassMargins, Mixer
from lipmodel.errors import InputError, UnsupportedError
from lipmodel.network.execution import Float, as_evaluated
from lipmodel.norms import MIN_DISTANCE, Array, bound_vector_norm, down, up
from lipmodel.signed.answers import SPARE, nearest_rival
from lipmodel.signed.claims import INPUT_ROUNDOFF, Answer, PairBounds, PairBounds1
from lipmodel.threat import BALLS
from lipmodel.verify.consistency import Check, float_slack

EXECUTIONS: dict[str, Float] = {"float64": np.float64, "float32": np.float32}


@dataclass(frozen=True)
class Compared(Check):
    """A stated value and its recomputed counterpart.

    Attributes:
        stated: the signed number or name.
        computed: the recomputed value; for a radius from bounds, the largest that follows.
    """

    stated: Any = None
    computed: Any = None


def check_answer(
    answer: Answer,
    model: CertifiedPredictor | Path | bytes | None = None,
    given: ArrayLike | None = None,
) -> list[Check]:
    """Return the checks that are possible with the arguments; all numbers need both model and input.

    Raises:
        ModelError: the model is refused.
    """
    checks = [_radius(answer)]
    predictor = CertifiedPredictor(model) if isinstance(model, Path | bytes) else model
    x = None
    if predictor is not None:
        checks.append(_same("digest of the model", answer.model_sha256, predictor.file.sha256))
        if isinstance(answer.bounds, PairBounds):
            found = predictor.file.folded_sha256
            checks.append(_same("digest of the folded weights", answer.folded_sha256, found))
    if given is not None:
        x = np.asarray(given, dtype=np.float64).ravel()
        checks.append(_same("size of the input", answer.input_size, x.size))
        checks.append(_same("digest of the input", answer.input_sha256, digest(x.tolist())))
    if predictor is None or x is None or not all(check.passed for check in checks[1:]):
        return checks
    try:
        return checks + _recompute(answer, predictor.executing(EXECUTIONS[answer.execution]), x)
    except (InputError, UnsupportedError) as error:
        return [*checks, Check("answer", f"the model has no prediction for the input: {error}")]


def _radius(answer: Answer) -> Check:
    name, radius, size = "radius from the stated bounds", answer.certified_radius, answer.input_size
    if radius == 0.0:
        return Check(name)  # certifies nothing
    if radius <= MIN_DISTANCE[answer.norm]:
        least = MIN_DISTANCE[answer.norm]
        return Check(
            name, f"states {radius!r}; distances in l{answer.norm} are computed reliably above {least!r}"
        )
    if answer.method in ("local", "box"):
        return Check(name)  # their bounds need the model
    follows = answer.bounds.supports(radius, size, answer.execution)
    reason = "" if follows else f"states {radius!r}, which does not follow from them"
    return Compared(name, reason, radius, answer.bounds.largest_radius(size, answer.execution))


@np.errstate(over="ignore", invalid="ignore")  # infinities and NaN prove nothing
def _recompute(answer: Answer, predictor: CertifiedPredictor, x: Array) -> list[Check]:
    """Return a check of each stated value against the recomputed one."""
    checked = predictor.check_inputs(x[None])
    execution, norm, names = predictor.execution, answer.norm, predictor.class_names
    radii = predictor.predict(checked, norm).radii
    label = int(radii.label[0])
    checks: list[Check] = [
        _same("label", answer.label, names[label]),
        _same("label_index", answer.label_index, label),
    ]
    if answer.label_index != label:
        return checks  # the rest refers to another class
    evaluated = as_evaluated(checked, execution)
    mixer, scores = predictor.mixer(norm, execution), predictor.scores_in_float64(evaluated)[0]
    if not np.isfinite(scores).all():
        raise InputError("the scores are not finite")
    located = mixer.rule.located(evaluated)
    margins = mixer.class_margins(scores, located[0], label, mix=answer.method != "lipschitz")
    checks.append(_margin(answer, float(radii.margin[0]), mixer, scores, located[0]))
    input_rounding = (
        0.0 if execution is np.float64 else float(bound_input_rounding(checked, evaluated, norm)[0])
    )
    overflow = float(mixer.rule.overflow_radius(located)[0])
    checks.append(_proved_radius(answer, predictor, margins, located[0], input_rounding, overflow))
    stated, owners = answer.bounds, mixer.head.owners
    own_scores = np.flatnonzero(owners == label).tolist()
    mixture = _mixture(answer, own_scores)
    mixes = len(own_scores) > 1 if answer.method == "mixture" else len(stated.mixture) == 1
    mixes |= answer.method == "box"
    checks.append(
        Check("method", "" if mixes else f"states {answer.method!r}, which does not match the mixture")
    )
    rivals = np.flatnonzero((owners != label) & (owners >= 0)).tolist()
    other = f"states {stated.rival}; the scores of other classes are {rivals[:9]}"
    rival = "" if stated.rival in rivals else other
    if mixture or rival:
        return [*checks, Check("bounds.mixture", mixture), Check("bounds.rival", rival)]
    own = np.array([share.score for share in stated.mixture])
    weights = np.array([[share.weight for share in stated.mixture]])
    found = mixer.margins_of(scores, located[0], own, weights, np.array([stated.rival]))
    checks.append(Check("bounds.mixture"))
    checks += _rival(answer, margins, scores, names, int(owners[stated.rival]))
    if isinstance(stated, PairBounds1):
        margin = sum(Fraction(s.weight) * Fraction(float(scores[s.score])) for s in stated.mixture)
        margin -= Fraction(float(scores[stated.rival]))
        checks.append(_at_most("bounds.bound_lead", stated.bound_lead, float(down(float(margin)))))
    else:
        checks.append(_at_most("bounds.bound_margin", stated.bound_margin, float(found.bound_margin[0])))
        checks.append(_at_least("bounds.bound_input_rounding", stated.bound_input_rounding, input_rounding))
    for name in ("bound_lipschitz", "bound_error", "bound_error_slope"):
        checks.append(_at_least(f"bounds.{name}", getattr(stated, name), float(getattr(found, name)[0])))
    checks.append(_at_least("bounds.bound_norm_ratio", stated.bound_norm_ratio, mixer.rule.kappa))
    checks.append(_at_most("bounds.bound_overflow_radius", stated.bound_overflow_radius, overflow))
    return checks


def _proved_radius(
    answer: Answer,
    predictor: CertifiedPredictor,
    margins: ClassMargins,
    x: Array,
    input_rounding: float,
    overflow: float,
) -> Check:
    """Check that the label is proved on the ball of the radius, measurement and rounding included."""
    name, radius = "certified_radius", answer.certified_radius
    if radius == 0.0:
        return Compared(name, "", radius, radius)
    slack, u = float_slack(answer.input_size, BALLS[answer.norm]), INPUT_ROUNDOFF[answer.execution]
    change = (1 + u) * Fraction(radius) / slack + Fraction(input_rounding)
    proved = False
    if change <= overflow:  # therefore in the range of float64
        ball = float(up(float(change)))
        proved = bool((margins.pair_radius > ball).all())
        if not proved and answer.method == "local":
            proved = predictor.tightener(answer.norm, predictor.execution).proves(margins, x, ball)
    least = min(float(margins.pair_radius.min()), overflow)
    found = (
        float((Fraction(least) - Fraction(input_rounding)) * slack / (1 + u)) if np.isfinite(least) else 0.0
    )
    shown = radius if proved else max(0.0, found)
    return Compared(name, "" if proved else f"states {radius!r}; proved here is {shown!r}", radius, shown)


def _margin(answer: Answer, found: float, mixer: Mixer, scores: Array, x: Array) -> Check:
    """Check that some evaluation in the execution may compute the margin.

    The margin is the minimum over j of the maximum over i of ŷ_i - ŷ_j, for scores j of other classes and i
    of the predicted one. Each difference is off by at most the errors of both evaluations, and rounding
    lowered the margin by at most 2⁻⁵⁰.
    """
    owners, size = mixer.head.owners, bound_vector_norm(x, mixer.rule.promised.norm)
    own = np.flatnonzero(owners == answer.label_index)[:, None]
    foreign = np.flatnonzero((owners != answer.label_index) & (owners >= 0))
    margins, error = scores[own] - scores[foreign], 2.0 * mixer.rule.promised.pair_error(own, foreign, size)
    least, most = ((margins + away).max(axis=0).min() for away in (-error, error))
    near = np.isfinite(found) and least * (1.0 - 2.0**-50) <= answer.margin <= most
    reason = "" if near else f"states {answer.margin!r}; recomputed it is {found!r}"
    return Compared("margin", reason, answer.margin, found)


def _mixture(answer: Answer, own: list[int]) -> str:
    """Return the reason why the stated shares are not a mixture of the predicted class's scores; else ""."""
    shares = answer.bounds.mixture
    scores = [share.score for share in shares]
    if not set(scores) <= set(own) or len(set(scores)) < len(scores):
        return f"states the scores {scores[:9]}; the predicted class has {own[:9]}, each once"
    if not all(share.weight > 0.0 for share in shares) or sum(Fraction(s.weight) for s in shares) != 1:
        return "the weights are not positive numbers with sum 1"
    return ""


def _rival(
    answer: Answer, margins: ClassMargins, scores: Array, names: tuple[str, ...], owner: int
) -> list[Check]:
    """Check that the rival is the nearest, up to rounding, and that the runner-up is its class."""
    at = int(np.flatnonzero(margins.competitors == answer.bounds.rival)[0])
    first, radii, margin = nearest_rival(margins, scores), margins.pair_radius, -scores[margins.competitors]
    error = 2.0 * margins.bound_error
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.nan_to_num(error / margins.bound_lipschitz, nan=0.0)  # 0 / 0: exact and constant
    near = at == first or radii[at] - away[at] <= radii[first] * (1.0 + SPARE) + away[first]
    if not near and (radii - away).min() <= 0.0:  # nothing may be certified: then the least margin counts
        near = bool((margin[at] - error[at] <= margin + error).all())
    rival = int(margins.competitors[first])
    reason = "" if near else f"states {answer.bounds.rival}; the nearest is {rival}"
    checks: list[Check] = [Compared("bounds.rival", reason, answer.bounds.rival, rival)]
    # In format 1 the runner-up of a local radius is that of the local bounds.
    if answer.method != "local" or not isinstance(answer.bounds, PairBounds1):
        checks.append(_same("runner_up_index", answer.runner_up_index, owner))
        checks.append(_same("runner_up", answer.runner_up, names[owner]))
    return checks


def _same(name: str, stated: Any, found: Any) -> Check:
    reason = "" if stated == found else f"states {stated!r}; it is {found!r}"
    return Compared(name, reason, stated, found)


def _at_least(name: str, stated: float, proved: float) -> Check:
    reason = "" if stated >= proved else f"states {stated!r}; proved here is no less than {proved!r}"
    return Compared(name, reason, stated, proved)


def _at_most(name: str, stated: float, proved: float) -> Check:
    reason = "" if stated <= proved else f"states {stated!r}; proved here is no more than {proved!r}"
    return Compared(name, reason, stated, proved)
