"""Convert predictions to claims that can be signed."""

from __future__ import annotations

import numpy as np

from lipmodel import __version__
from lipmodel.certificates.format import Share, digest
from lipmodel.certify.boxed_radius import BoxedRule
from lipmodel.certify.predictor import CertifiedPredictor, Predictions
from lipmodel.certify.radius import bound_input_rounding
from lipmodel.certify.tight.mixtures import ClassMargins
from lipmodel.errors import InputError
from lipmodel.network.execution import as_evaluated
from lipmodel.norms import MIN_DISTANCE, Array, down, up
from lipmodel.signed.claims import Answer, PairBounds

SPARE = 2.0**-36
"""The relative amount by which stated bounds are weaker than computed ones.

A processor that sums in another order computes slightly different bounds: of large matrices by 3·10⁻¹¹ at
most, of others by 10⁻¹⁵. With this slack every processor can prove the stated bounds from its own bounds, and
the check needs no tolerance.
"""


def answers(predictor: CertifiedPredictor, inputs: Array, predictions: Predictions) -> list[Answer]:
    """Return one answer for each of (N, d) inputs: some 0.1 ms each, milliseconds if mixtures set the radius.

    The stated radius follows from the stated bounds and is at most the predicted one. In addition to
    ``SPARE`` it allows for the rounding error of the scores once more, since another processor computes
    other scores.

    Args:
        predictor: the predictor that made the predictions.
        inputs: inputs returned by ``CertifiedPredictor.check_inputs``.
        predictions: predictions for these inputs.

    Raises:
        InputError: a score or a bound is not finite, so that nothing can be stated.
    """
    norm, execution = predictions.norm, predictions.execution
    mixer, names, radii = predictor.mixer(norm, execution), predictor.class_names, predictions.radii
    evaluated = as_evaluated(inputs, execution)
    rounds = execution is np.float32
    raw = predictor.scores_in_float64(evaluated) if rounds else predictions.raw_scores
    input_rounding = bound_input_rounding(inputs, evaluated, norm) if rounds else np.zeros(len(inputs))
    located = mixer.rule.located(evaluated)
    overflow = mixer.rule.overflow_radius(located)
    stated = []
    for row, label in enumerate(radii.label.tolist()):
        scores, x, radius = raw[row], inputs[row], float(radii.certified_radius[row])
        method = "box" if isinstance(mixer.rule, BoxedRule) else "lipschitz"
        if predictions.tightening is not None:
            method = str(predictions.tightening.method[row])
        margins = mixer.class_margins(scores, located[row], label, mix=method in ("box", "mixture"))
        nearest = nearest_rival(margins, scores)
        bounds = _bounds(margins, nearest, mixer.rule.kappa, float(input_rounding[row]), float(overflow[row]))
        stated_bounds = [value for name, value in vars(bounds).items() if name != "mixture"]
        if not np.isfinite([*stated_bounds, *scores, radii.margin[row]]).all():
            raise InputError("the scores or their bounds are not finite", field=f"inputs[{row}]")
        if method in ("local", "box"):
            radius = float(down(radius * (1.0 - SPARE)))
        else:
            radius = min(radius, bounds.largest_radius(len(x), execution.__name__))
        runner_up = int(mixer.head.owners[bounds.rival])
        stated.append(
            Answer(
                lipcert_version=__version__,
                execution=execution.__name__,
                model_sha256=predictor.file.sha256,
                folded_sha256=predictor.file.folded_sha256,
                input_sha256=digest(x.tolist()),
                input_size=len(x),
                norm=norm,
                label=names[label],
                label_index=label,
                runner_up=names[runner_up],
                runner_up_index=runner_up,
                margin=float(radii.margin[row]),
                certified_radius=radius if radius > MIN_DISTANCE[norm] else 0.0,
                method=method,
                bounds=bounds,
            )
        )
    return stated


def nearest_rival(margins: ClassMargins, scores: Array) -> int:
    """Return the position of the rival that sets the radius; if none does, of the largest rival score."""
    nearest = int(margins.pair_radius.argmin())
    return nearest if margins.pair_radius[nearest] > 0.0 else int(scores[margins.competitors].argmax())


def _bounds(
    margins: ClassMargins, at: int, ratio: float, input_rounding: float, overflow: float
) -> PairBounds:
    """Return the bounds of the rival at a position, each weaker by ``SPARE``."""
    weights = margins.weights[at]

    def above(bound: float) -> float:
        return float(up(bound * (1.0 + SPARE))) if bound else 0.0

    return PairBounds(
        rival=int(margins.competitors[at]),
        mixture=tuple(Share(int(margins.targets[i]), float(weights[i])) for i in np.flatnonzero(weights)),
        bound_margin=float(down(margins.bound_margin[at] - margins.bound_score_error[at])),
        bound_lipschitz=above(margins.bound_lipschitz[at]),
        bound_error=above(margins.bound_error[at]),
        bound_error_slope=above(margins.bound_error_slope[at]),
        bound_norm_ratio=ratio,
        bound_input_rounding=above(input_rounding),
        bound_overflow_radius=float(down(overflow * (1.0 - SPARE))),
    )
