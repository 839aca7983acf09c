"""What a predictor answered, as claims that can be signed."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from lipmodel import __version__
from lipmodel.certify.certificate import Share, digest
from lipmodel.certify.mixtures import Standing
from lipmodel.certify.predictor import CertifiedPredictor, Predictions
from lipmodel.errors import InputError
from lipmodel.norms import Array, down
from lipmodel.signed.claims import Answer, PairBounds


def answers(predictor: CertifiedPredictor, inputs: Array, predictions: Predictions) -> list[Answer]:
    """One answer for each of (N, d) inputs, some 0.1 ms each; milliseconds where mixtures set the radius.

    Args:
        predictor: that made the predictions.
        inputs: as ``CertifiedPredictor.check_inputs`` returns them.
        predictions: of these inputs.

    Raises:
        InputError: a score or a bound is no finite number, so that there is nothing to state.
    """
    rule, mixer = predictor.rule(predictions.norm), predictor.mixer(predictions.norm)
    names, radii = predictor.class_names, predictions.radii
    ratio, most = rule.kappa, rule.overflow_radius(inputs)
    tightening = predictions.tightening
    stated = []
    for row, label in enumerate(radii.label.tolist()):
        scores, x, radius = predictions.raw_scores[row], inputs[row], float(radii.certified_radius[row])
        method = "lipschitz" if tightening is None else str(tightening.method[row])
        standing = mixer.stand(scores, x, mix=method == "mixture")
        # Where nothing is certified, the class of the second largest score is named.
        nearest = standing.reach.argmin() if radius > 0.0 else scores[standing.foreign].argmax()
        bounds = _bounds(standing, int(nearest), scores, ratio, float(most[row]))
        stated_bounds = [value for name, value in vars(bounds).items() if name != "mixture"]
        if not (np.isfinite(stated_bounds).all() and np.isfinite(scores).all()):
            raise InputError("its scores or their bounds are not finite", field=f"inputs[{row}]")
        runner_up = int(radii.runner_up[row])
        stated.append(
            Answer(
                lipcert_version=__version__,
                model_sha256=predictor.file.sha256,
                input_sha256=digest(x.tolist()),
                input_size=len(x),
                norm=predictions.norm,
                label=names[label],
                label_index=label,
                runner_up=names[runner_up],
                runner_up_index=runner_up,
                margin=float(radii.margin[row]),
                certified_radius=radius,
                method=method,
                bounds=bounds,
            )
        )
    return stated


def _bounds(standing: Standing, nearest: int, scores: Array, ratio: float, most: float) -> PairBounds:
    weights, rival = standing.weights[nearest], int(standing.foreign[nearest])
    mixture = tuple(Share(int(standing.own[i]), float(weights[i])) for i in np.flatnonzero(weights))
    return PairBounds(
        rival=rival,
        mixture=mixture,
        bound_lead=_lead(mixture, rival, scores),
        bound_lipschitz=float(standing.bound_lipschitz[nearest]),
        bound_error=float(standing.bound_error[nearest]),
        bound_error_slope=float(standing.bound_error_slope[nearest]),
        bound_norm_ratio=ratio,
        bound_overflow_radius=most,
    )


def _lead(mixture: Sequence[Share], rival: int, scores: Array) -> float:
    """Σ λ_i ŷ_i - ŷ_j, rounded down."""
    if len(mixture) == 1:
        return float(down(scores[mixture[0].score] - scores[rival]))
    mixed = sum(Fraction(s.weight) * Fraction(float(scores[s.score])) for s in mixture)
    return float(down(float(mixed - Fraction(float(scores[rival])))))
