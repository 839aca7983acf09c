"""Labelled data to clean and certified accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError
from lipmodel.norms import Norm
from lipmodel.progress import Progress, silent

BATCH_ROWS, TIGHTENED_ROWS = 1000, 20


@dataclass(frozen=True)
class Evaluation:
    """What a classifier achieves on labelled data.

    Attributes:
        norm: the norm that radii and epsilons are in.
        tightened: whether radii are those of the slower tier.
        samples: how many inputs.
        clean_accuracy: share answered with the right label.
        certified_accuracy: for each epsilon, share answered right with a radius of at least epsilon.
        average_certified_radius: mean radius, counting 0 where the answer is wrong (Zhai et al. 2020).
        certified_radius_quantiles: 0.05, 0.25, 0.5, 0.75, 0.95 of the radii of right answers.
    """

    norm: Norm
    tightened: bool
    samples: int
    clean_accuracy: float
    certified_accuracy: dict[str, float]
    average_certified_radius: float
    certified_radius_quantiles: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "norm": self.norm.value,
            "tightened": self.tightened,
            "samples": self.samples,
            "clean_accuracy": self.clean_accuracy,
            "certified_accuracy": self.certified_accuracy,
            "average_certified_radius": self.average_certified_radius,
            "certified_radius_quantiles": self.certified_radius_quantiles,
        }


def evaluate(
    predictor: CertifiedPredictor,
    inputs: Any,
    labels: Sequence[int] | np.ndarray[Any, Any],
    norm: Norm | None = None,
    epsilons: Iterable[float] = (),
    progress: Progress = silent,
    *,
    tighten: bool = False,
) -> Evaluation:
    """Certified accuracy on labelled data.

    Args:
        predictor: the classifier.
        inputs: (N, d) or (N, *input_shape).
        labels: (N,) class indices.
        norm: of the radii; the predictor's own by default.
        epsilons: sizes >= 0 to give the certified accuracy at.
        progress: told the share done.
        tighten: prove larger radii, slowly; see ``CertifiedPredictor.predict``.

    Raises:
        InputError: inputs that do not fit; labels that are not class indices; a bad epsilon.
    """
    norm = norm or predictor.default_norm
    x = predictor.check_inputs(inputs)
    y = np.asarray(labels)
    if y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise InputError(
            f"{len(x)} class indices are accepted, not {y.dtype} {list(y.shape)}", field="labels"
        )
    if y.min() < 0 or y.max() >= len(predictor.class_names):
        raise InputError(
            f"class indices from 0 to {len(predictor.class_names) - 1} are accepted", field="labels"
        )
    sizes = sorted({float(e) for e in epsilons})
    if any(not 0.0 <= e < np.inf for e in sizes):
        raise InputError("finite numbers of at least 0 are accepted", field="epsilons")
    parts, step = [], TIGHTENED_ROWS if tighten else BATCH_ROWS
    for start in range(0, len(x), step):
        parts.append(predictor.predict(x[start : start + step], norm, tighten=tighten).radii)
        progress(min(1.0, (start + step) / len(x)))
    right = np.concatenate([part.label for part in parts]) == y
    radius = np.where(right, np.concatenate([part.certified_radius for part in parts]), 0.0)
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    quantiles = np.quantile(radius[right], levels) if right.any() else np.zeros(len(levels))
    return Evaluation(
        norm=norm,
        tightened=tighten,
        samples=len(x),
        clean_accuracy=float(right.mean()),
        certified_accuracy={f"{e:g}": float((right & (radius >= e) & (radius > 0)).mean()) for e in sizes},
        average_certified_radius=float(radius.mean()),
        certified_radius_quantiles={f"{q:g}": float(v) for q, v in zip(levels, quantiles, strict=True)},
    )
