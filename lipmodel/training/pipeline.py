"""Export of a whole scikit-learn pipeline as one ONNX file, with radii in the units of raw rows.

The file of a classifier alone lacks the steps before it. Each affine step T is folded into the weights
behind it, last step first: W T(x) + b = W′x + b′. So a pipeline adds no layer to the network, and the
Lipschitz bounds are those of the product W′, which is at most ‖W‖ ‖T‖ and often less.

W′ and b′ are computed in float64 and rounded once to float32. The file first subtracts the centre m of the
rows, a float32 number itself, and W′ is applied to x − m, so that a column far from 0 (years, timestamps)
loses no digits to its distance from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import decomposition, feature_selection, preprocessing
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_array, check_is_fitted

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import TrainingError
from lipmodel.files import write_whole
from lipmodel.network import ops
from lipmodel.network.metadata import Claims
from lipmodel.network.ops import Dense, Graph
from lipmodel.network.writer import to_bytes, write_model
from lipmodel.norms import Array
from lipmodel.training.estimator import LipschitzClassifier
from lipmodel.training.export.graph_builder import GraphBuilder
from lipmodel.training.export.onnx_export import export

MAX_DIFFERENCE = 1e-4
"""Largest accepted difference of scores, file against pipeline, relative to the largest score.

Rounding causes about 1e-7.
"""

Folded = tuple[Array, Array]
"""W′ (h, columns in) and W T(0) (h,), the weight and offset of the affine map W T(x)."""


def export_pipeline(pipeline: Pipeline, path: Path | str, X: Any) -> CertifiedPredictor:  # noqa: N803
    """Write a fitted pipeline of affine steps and a LipschitzClassifier as one ONNX file for raw rows.

    The file is read back, bounded, and compared with the pipeline on X before it is written to the path.
    Returns the predictor of the file, with the scores of the pipeline and radii in the units of X.

    Args:
        pipeline: any of the steps in ``STEPS``, then a LipschitzClassifier.
        path: the ONNX file to write.
        X: (N, d) raw rows, such as the training rows: they set the centre and range of the file's inputs, and
            scores of file and pipeline are compared on them.

    Raises:
        TrainingError: a step cannot be folded, or the scores differ from the pipeline's.
        ValueError: scikit-learn rejects X, for missing values for example.
    """
    if not isinstance(pipeline, Pipeline) or not isinstance(pipeline[-1], LipschitzClassifier):
        last = type(pipeline[-1] if isinstance(pipeline, Pipeline) else pipeline).__name__
        raise TrainingError(f"a Pipeline that ends in LipschitzClassifier is accepted, not {last}")
    check_is_fitted(pipeline)
    model: LipschitzClassifier = pipeline[-1]
    steps = [step for _, part in pipeline.steps[:-1] for step in _flat(part)]
    rows = check_array(X, dtype=np.float64)
    graph = _fold(steps, model.predictor_.file.graph, rows.mean(axis=0))

    claimed = model.predictor_.claims
    assert claimed.norm is not None
    bare = CertifiedPredictor(to_bytes(write_model(graph, np.float32)))
    record = {
        **claimed.record,
        "pipeline": [type(step).__name__ for step in steps],
        "input_shape": [rows.shape[1]],
        "units": "as in the rows of the pipeline",
        "columns": list(map(str, getattr(pipeline, "feature_names_in_", ()))),
    }
    claims = Claims(
        norm=claimed.norm,
        lipschitz=bare.bounds(claimed.norm).bound_global,
        classes=claimed.classes,
        input_box=(float(rows.min()), float(rows.max())),
        record=record,
    )
    content, predictor = export(graph, claims)
    _compare(predictor, rows, pipeline.decision_function(X if hasattr(X, "columns") else rows))
    write_whole(Path(path), content)
    return predictor


def _compare(predictor: CertifiedPredictor, rows: Array, expected: Array) -> None:
    """Raise TrainingError if scores of the file differ from the expected scores."""
    scores = predictor.predict(rows).scores
    difference = float(np.abs(scores - expected.reshape(scores.shape)).max())
    largest = float(np.abs(expected).max())
    if not difference <= MAX_DIFFERENCE * largest:
        raise TrainingError(
            f"scores of the file differ from the pipeline's by up to {difference:.3g}, and at most "
            f"{MAX_DIFFERENCE:g} of the largest score ({largest:.3g}) is accepted; nothing was written. Pass "
            "X as to the pipeline's predict, without rows far outside of the rows of fit"
        )


def _fold(steps: Sequence[Any], graph: Graph, centre: Array) -> Graph:
    """Return the classifier's graph with the steps folded into its first layer."""
    first, *rest = graph.ops
    factor = np.ones(())
    if isinstance(first, ops.Scale):  # the classifier's own scaling, by powers of two
        factor, first, *rest = first.factor, *rest
    assert isinstance(first, Dense)
    weight = first.weight * factor
    bias = np.zeros(len(weight)) if first.bias is None else first.bias
    # Last layer first; each with the range to which its input is clipped.
    layers: list[tuple[Array, Array, tuple[float, float] | None]] = []
    for step in reversed(steps):
        if clip := _clip(step):
            layers.append((weight, bias, clip))
            weight, bias = np.eye(weight.shape[1]), np.zeros(weight.shape[1])
        weight, offset = _fold_step(step, weight)
        bias = bias + offset
    centre = centre.astype(np.float32).astype(np.float64)
    if weight.shape[1:] != centre.shape:
        raise TrainingError(f"X has {centre.size} columns; the pipeline accepts {weight.shape[1]}")
    layers.append((weight, bias + weight @ centre, None))

    builder = GraphBuilder(centre.shape)
    builder.add(ops.Shift, "rows_centred", offset=-centre)
    for weight, bias, clip in reversed(layers):
        if clip:
            builder.add(ops.Clip, "rows_clipped", low=np.asarray(clip[0]), high=np.asarray(clip[1]))
        with np.errstate(over="ignore"):
            if not np.isfinite(weight.astype(np.float32)).all():
                raise TrainingError(
                    "a step divides by a number too small for float32 weights; rescale its columns"
                )
        builder.add(Dense, "rows_folded", shape=(len(weight),), weight=weight, bias=bias)
    last = replace(builder.ops[-1], output=first.output)
    return replace(
        graph, input=builder.ops[0].inputs[0], input_shape=centre.shape, ops=(*builder.ops[:-1], last, *rest)
    )


# --- steps ---------------------------------------------------------------------------------


def _flat(step: Any) -> Iterator[Any]:
    """Yield the steps of nested pipelines one by one, without passthrough steps."""
    if type(step) is Pipeline:
        for _, inner in step.steps:
            yield from _flat(inner)
    elif step not in ("passthrough", None):
        yield step


def _clip(step: Any) -> tuple[float, float] | None:
    """Return the range to which a scaler clips its outputs; None without clipping."""
    if not getattr(step, "clip", False):
        return None
    low, high = getattr(step, "feature_range", (-1.0, 1.0))
    return float(low), float(high)


def _fold_step(step: Any, weight: Array) -> Folded:
    """Fold one step into the weights behind it; the caller handles a clip at its end.

    Raises:
        TrainingError: the step is not in ``STEPS``.
    """
    fold = STEPS.get(type(step))
    if fold is None:
        known = ", ".join(sorted(kind.__name__ for kind in STEPS))
        raise TrainingError(
            f"step {type(step).__name__} cannot be folded into the file: it is not affine, or not known to "
            f"be affine. Accepted are {known}. Apply other steps to the rows before the pipeline, in fit and "
            "in every request (a file accepts no missing values)"
        )
    return fold(step, weight)


def _scale(weight: Array, centre: Any, scale: Any) -> Folded:
    """Fold (x − centre) / scale into the weights; either may be None."""
    folded = weight if scale is None else weight / scale
    return folded, np.zeros(len(weight)) if centre is None else -(folded @ centre)


def _project(weight: Array, directions: Array, centre: Array | None = None, scale: Any = 1.0) -> Folded:
    """Fold (x − centre) directionsᵀ / scale into the weights."""
    return _scale((weight / scale) @ directions, centre, None)


def _pca(step: Any, weight: Array) -> Folded:
    if not step.whiten:
        return _project(weight, step.components_, step.mean_)
    deviations = np.sqrt(step.explained_variance_)
    least = np.finfo(deviations.dtype).eps  # as in scikit-learn
    return _project(weight, step.components_, step.mean_, np.maximum(deviations, least))


def _select(step: Any, weight: Array) -> Folded:
    """Fold a selection of columns into the weights: omitted columns have weight 0."""
    folded = np.zeros((len(weight), step.n_features_in_))
    folded[:, step.get_support()] = weight
    return folded, np.zeros(len(weight))


def _columns(step: Any, weight: Array) -> Folded:
    """Fold each part of a ColumnTransformer into the weights of its columns, and add the parts."""
    folded, offset = np.zeros((len(weight), step.n_features_in_)), np.zeros(len(weight))
    for name, part, columns in step.transformers_:
        behind = weight[:, step.output_indices_[name]] * (step.transformer_weights or {}).get(name, 1.0)
        if not behind.size:  # dropped, or without columns
            continue
        for inner in reversed(list(_flat(part))):
            if _clip(inner):
                raise TrainingError(
                    f"{type(inner).__name__}(clip=True) within a ColumnTransformer cannot be folded; use "
                    "clip=False, or make the scaler a step of the pipeline"
                )
            behind, constant = _fold_step(inner, behind)
            offset = offset + constant
        np.add.at(folded.T, _indices(step, columns), behind.T)  # a column may be listed twice
    return folded, offset


def _indices(step: Any, columns: Any) -> Any:
    """Return the indices of a ColumnTransformer's columns, given by index, mask, slice or name."""
    if isinstance(columns, slice):
        return np.arange(step.n_features_in_)[columns]
    columns = np.atleast_1d(columns)
    if columns.dtype.kind in "OU":
        return [list(step.feature_names_in_).index(name) for name in columns]
    return np.arange(step.n_features_in_)[columns]


def _function(step: Any, weight: Array) -> Folded:
    if step.func is not None:
        raise TrainingError(
            f"step {step} cannot be folded into the file: a FunctionTransformer is accepted only with "
            "func=None. Apply the function to the rows before the pipeline, in fit and in every request"
        )
    return weight, np.zeros(len(weight))


STEPS: dict[type, Callable[[Any, Array], Folded]] = {
    preprocessing.StandardScaler: lambda step, weight: _scale(
        weight, step.mean_ if step.with_mean else None, step.scale_ if step.with_std else None
    ),
    preprocessing.RobustScaler: lambda step, weight: _scale(
        weight, step.center_ if step.with_centering else None, step.scale_ if step.with_scaling else None
    ),
    preprocessing.MaxAbsScaler: lambda step, weight: _scale(weight, None, step.scale_),
    preprocessing.MinMaxScaler: lambda step, weight: (weight * step.scale_, weight @ step.min_),
    preprocessing.FunctionTransformer: _function,
    decomposition.PCA: _pca,
    decomposition.IncrementalPCA: _pca,
    decomposition.TruncatedSVD: lambda step, weight: _project(weight, step.components_),
    feature_selection.VarianceThreshold: _select,
    feature_selection.SelectKBest: _select,
    feature_selection.SelectPercentile: _select,
    feature_selection.SelectFromModel: _select,
    feature_selection.SequentialFeatureSelector: _select,
    feature_selection.RFE: _select,
    feature_selection.RFECV: _select,
    ColumnTransformer: _columns,
}
"""The folding function of each step, by exact class: a derived class may compute something else."""
