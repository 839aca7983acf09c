"""Issuing of certificates: answers of a predictor, with all bounds that the radius follows from."""

from __future__ import annotations

from typing import Any

import numpy as np

from lipmodel import __version__
from lipmodel.certificates.format import Certificate, InBox, Rival, Scaling, Share, digest
from lipmodel.certify.boxed_radius import UNBOUNDED, BoxedRule
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.scaling.bound import ScaledBound
from lipmodel.certify.tight.mixtures import ClassMargins
from lipmodel.errors import InputError
from lipmodel.norms import Norm, bound_vector_norm
from lipmodel.threat import Threat


def certify(
    predictor: CertifiedPredictor, inputs: Any, threat: Threat | Norm | None = None, *, mix: bool = False
) -> list[Certificate]:
    """Return one certificate for each of the inputs (N, d) or (N, *input_shape).

    Args:
        predictor: the classifier.
        inputs: inputs to answer.
        threat: threat set of the radii, or the norm of a ball; the predictor's own norm by default.
        mix: whether to prove larger radii by mixtures of scores, where classes own several. Radii from local
            bounds (``tight/tightener.py``) have no certificate.

    Raises:
        InputError: see ``CertifiedPredictor.check_inputs``; also where a score or a bound is not finite, so
            that there is nothing to state.
    """
    predictor = predictor.executing(np.float64)  # the execution that certificates speak of
    x = predictor.check_inputs(inputs)
    result = predictor.predict(x, threat)
    rule, mixer = predictor.rule(result.threat), predictor.mixer(result.threat)
    head, names, radii = predictor.head, predictor.class_names, result.radii
    size, most = bound_vector_norm(x, rule.promised.norm, axis=1), rule.overflow_radius(x)
    scaling = _scaling(rule.lipschitz.scaled_bound)
    certificates = []
    for row, label in enumerate(radii.label):
        scores, radius, runner_up = result.raw_scores[row], radii.certified_radius[row], radii.runner_up[row]
        margins = mixer.class_margins(scores, x[row], int(label), mix=mix and radius > 0.0)
        bounds = (margins.bound_lipschitz, margins.bound_error, margins.bound_error_slope)
        if not (np.isfinite(bounds).all() and np.isfinite(scores).all()):
            raise InputError("its scores or their bounds are not finite", field=f"inputs[{row}]")
        nearest = margins.pair_radius.argmin()
        mixed = min(margins.pair_radius[nearest], most[row]) * rule.client_factor
        if mixed > radius or isinstance(rule, BoxedRule):  # the radius has to follow from what is stated
            radius = mixed if mixed > rule.threat.min_distance else 0.0
            at = nearest if radius else scores[margins.competitors].argmax()
            runner_up = head.owners[margins.competitors[at]]
        values = x[row].tolist()
        certificates.append(
            Certificate(
                lipcert_version=__version__,
                model_sha256=predictor.file.sha256,
                folded_weights_sha256=predictor.file.folded_sha256,
                input=tuple(values),
                input_sha256=digest(values),
                norm=result.norm,
                label=names[label],
                label_index=int(label),
                runner_up=names[runner_up],
                runner_up_index=int(runner_up),
                score_tensor=head.scores,
                scores=tuple(scores.tolist()),
                owners=tuple(head.owners.tolist()),
                margin=float(radii.margin[row]),
                certified_radius=float(radius),
                error_norm=rule.promised.norm,
                bound_input_norm=float(size[row]),
                bound_norm_ratio=rule.kappa,
                scaling=scaling,
                rivals=_rivals(margins),
                scale=result.threat.scale,
            )
        )
    return certificates


def _scaling(scaled: ScaledBound | None) -> tuple[Scaling, ...]:
    if scaled is None:
        return ()
    tensors = [layer.dense.output for layer in scaled.layers]
    weights = [tuple(map(tuple, w.tolist())) for w in scaled.weights]
    return tuple(Scaling(tensor, mean, rest) for tensor, (mean, rest) in zip(tensors, weights, strict=True))


def _rivals(margins: ClassMargins) -> tuple[Rival, ...]:
    bounds = np.stack([margins.bound_lipschitz, margins.bound_error, margins.bound_error_slope], axis=1)
    rivals = []
    for at, (competitor, weights, stated) in enumerate(
        zip(margins.competitors, margins.weights, bounds, strict=True)
    ):
        used = np.flatnonzero(weights)
        mixture = tuple(Share(int(margins.targets[i]), float(weights[i])) for i in used)
        box = None
        if margins.box_radius[at] > 0.0 and margins.box_radius[at] >= margins.pair_radius[at]:
            box = InBox(float(margins.multiplier[at]), float(min(margins.box_radius[at], UNBOUNDED)))
        lipschitz, error, slope = stated.tolist()
        rivals.append(Rival(int(competitor), mixture, lipschitz, error, slope, box))
    return tuple(rivals)
