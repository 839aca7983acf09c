"""One file per pipeline, with the scores of the pipeline and radii in the units of raw rows."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import (
    RFE,
    RFECV,
    SelectFromModel,
    SelectKBest,
    SelectPercentile,
    SequentialFeatureSelector,
    VarianceThreshold,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from lipmodel import training
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.load import breast_cancer
from lipmodel.errors import InputError, TrainingError
from lipmodel.norms import Norm
from lipmodel.training import pipeline as module
from lipmodel.training.estimator import LipschitzClassifier
from lipmodel.training.pipeline import STEPS, export_pipeline
from tests.seeds import shifted

TRAIN, HELD_OUT = breast_cancer().split()
LINEAR = LogisticRegression(C=1e-6, max_iter=50, solver="newton-cholesky")


def fitted(*steps, y=TRAIN.labels, **parameters):
    model = LipschitzClassifier(
        **{"epochs": 3, "widths": (16,), "batch_size": 128, "random_state": shifted(0), **parameters}
    )
    return make_pipeline(*steps, model).fit(TRAIN.inputs.astype(np.float64), y)


CHAINS = {
    "StandardScaler": [StandardScaler()],
    "only centred": [StandardScaler(with_std=False)],
    "only scaled": [StandardScaler(with_mean=False)],
    "RobustScaler": [RobustScaler()],
    "RobustScaler, in part": [RobustScaler(with_centering=False, unit_variance=True)],
    "MaxAbsScaler": [MaxAbsScaler()],
    "MinMaxScaler": [MinMaxScaler((-1, 3))],
    "clipped": [MinMaxScaler((-1, 3), clip=True)],
    "clipped twice": [StandardScaler(), MinMaxScaler((0, 2), clip=True), PCA(6), MinMaxScaler(clip=True)],
    "PCA": [PCA(5)],
    "whitened": [StandardScaler(), PCA(5, whiten=True)],
    "IncrementalPCA": [StandardScaler(), IncrementalPCA(5, whiten=True)],
    "TruncatedSVD": [StandardScaler(), TruncatedSVD(5, random_state=0)],
    "VarianceThreshold": [VarianceThreshold(0.01), StandardScaler()],
    "SelectKBest": [StandardScaler(), SelectKBest(k=7)],
    "SelectPercentile": [SelectPercentile(percentile=30), StandardScaler()],
    "SelectFromModel": [StandardScaler(), SelectFromModel(LINEAR)],
    "SequentialFeatureSelector": [
        StandardScaler(),
        SelectKBest(k=3),
        SequentialFeatureSelector(LINEAR, n_features_to_select=2, cv=2),
    ],
    "RFE": [StandardScaler(), RFE(LINEAR, step=0.5)],
    "RFECV": [StandardScaler(), SelectKBest(k=4), RFECV(LINEAR, cv=2)],
    "nothing": ["passthrough", FunctionTransformer()],
    "no step": [],
    "a pipeline within": [make_pipeline(SelectKBest(k=9), make_pipeline(StandardScaler(), None)), PCA(4)],
    "ColumnTransformer": [
        ColumnTransformer(
            [
                ("scaled", StandardScaler(), slice(2, 9)),
                ("reduced", make_pipeline(RobustScaler(), PCA(2)), [12, 3, 14]),
                ("masked", MinMaxScaler(), np.arange(30) % 7 == 0),
                ("gone", "drop", [20]),
                ("none", StandardScaler(), []),
                ("one", "passthrough", [27]),
            ],
            remainder="passthrough",
            transformer_weights={"reduced": 2.5},
        ),
        StandardScaler(),
    ],
    "by a function": [ColumnTransformer([("few", StandardScaler(), lambda rows: [1, 5, 1])])],
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_scores_are_the_pipelines_and_no_change_within_a_radius_alters_a_label(name, tmp_path):
    pipeline = fitted(*CHAINS[name])
    predictor = export_pipeline(pipeline, tmp_path / "model.onnx", TRAIN.inputs)
    x = HELD_OUT.inputs.astype(np.float64)
    expected = pipeline.decision_function(x)
    scores = predictor.predict(x).scores[:, 0]
    assert np.abs(scores - expected).max() <= 1e-5 * np.abs(expected).max()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: HELD_OUT.inputs})
    assert np.abs(theirs[:, 0] - expected).max() <= 1e-4 * np.abs(expected).max()

    again = CertifiedPredictor(tmp_path / "model.onnx")
    assert again.claim_proved
    assert again.claims.input_box == (TRAIN.inputs.min(), TRAIN.inputs.max())
    labels = pipeline.predict(x)
    for norm in Norm:
        radius = again.predict(x, norm).radii.certified_radius
        # The pipeline itself, by scikit-learn, moved from each row towards another one.
        step = x[::-1] - x
        size = np.linalg.norm(step, ord=float(norm.value), axis=1)
        moved = x + step * np.divide(0.999 * radius, size, out=np.zeros_like(size), where=size > 0)[:, None]
        sure = np.abs(expected) > 1e-4 * np.abs(expected).max()
        assert (pipeline.predict(moved) == labels)[sure].all()


def test_every_step_of_the_table_is_tried():
    tried = {type(step) for chain in CHAINS.values() for step in chain}
    assert set(STEPS) <= tried


def test_radii_are_in_the_units_of_raw_rows(tmp_path):
    """On raw rows the classifier's own file is mostly wrong and yet certifies radii of hundreds."""
    pipeline = fitted(StandardScaler(), epochs=10)
    predictor = training.export_pipeline(pipeline, str(tmp_path / "model.onnx"), TRAIN.inputs)
    with pytest.warns(UserWarning, match=r"takes rows as passed to fit, with numbers from -3\S* to 1\d"):
        alone = CertifiedPredictor(pipeline[-1].to_onnx()).predict(HELD_OUT.inputs).radii
    whole = predictor.predict(HELD_OUT.inputs).radii
    assert (whole.label == HELD_OUT.labels).mean() > 0.9 > (alone.label == HELD_OUT.labels).mean()
    spread = TRAIN.inputs.std(axis=0)
    assert np.median(whole.certified_radius) < 10 * spread.min() < 10 < np.median(alone.certified_radius)
    assert predictor.claims.record["pipeline"] == ["StandardScaler"]


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "export_pipeline" in block
    ]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    radii = names["predictor"].predict(names["X_test"]).radii
    assert (radii.label == names["y_test"]).mean() > 0.9
    assert 0.001 < np.median(radii.certified_radius) < 0.02


def test_the_constant_is_that_of_the_product_in_exact_arithmetic(tmp_path):
    """The linf constant of a pipeline with one linear layer is the row sum of weights over deviations."""
    pipeline = fitted(StandardScaler(), norm="inf", widths=())
    predictor = export_pipeline(pipeline, tmp_path / "model.onnx", TRAIN.inputs)
    (dense,) = [op for op in predictor.file.graph.ops if hasattr(op, "weight")]
    exact = sum(abs(Fraction(float(w))) for w in dense.weight[0])
    proved = predictor.bounds(Norm.INF).bound_global
    assert exact <= Fraction(proved) <= exact * (1 + Fraction(1, 10**9))
    alone = pipeline[-1].predictor_.file.graph.ops[-1].weight[0] / pipeline[0].scale_
    assert np.abs(alone).sum() == pytest.approx(proved, rel=1e-6)


def test_columns_far_from_zero_lose_no_digits(tmp_path):
    """A column has seconds since 1970: the file subtracts the centre before rounding."""
    x = HELD_OUT.inputs.astype(np.float64) * 16
    x[:, :5] += 2.0**31
    pipeline = make_pipeline(StandardScaler(), LipschitzClassifier(epochs=3, widths=(16,)))
    pipeline.fit(x, HELD_OUT.labels)
    predictor = export_pipeline(pipeline, tmp_path / "model.onnx", x)
    expected = pipeline.decision_function(x)
    assert np.abs(predictor.predict(x).scores[:, 0] - expected).max() < 1e-5 * np.abs(expected).max()


def test_several_classes_and_their_names(tmp_path):
    names = np.array(["low", "middle", "high"])[np.digitize(TRAIN.inputs[:, 0], [12, 16])]
    pipeline = fitted(StandardScaler(), y=names, epochs=20)
    predictor = export_pipeline(pipeline, tmp_path / "model.onnx", TRAIN.inputs)
    assert predictor.class_names == ("high", "low", "middle")
    found = predictor.predict(HELD_OUT.inputs).radii.label
    assert (np.array(predictor.class_names)[found] == pipeline.predict(HELD_OUT.inputs)).all()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            SimpleImputer(),
            r"step SimpleImputer cannot be folded .* StandardScaler.* accepts no missing values",
        ),
        (PolynomialFeatures(), "step PolynomialFeatures cannot be folded"),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), "step OneHotEncoder cannot be folded"),
        (Normalizer(), "step Normalizer cannot be folded"),
        (QuantileTransformer(n_quantiles=10), "step QuantileTransformer cannot be folded"),
        (PowerTransformer(), "step PowerTransformer cannot be folded"),
        (FunctionTransformer(np.tanh), r"FunctionTransformer\(func=<ufunc 'tanh'>\).* only with func=None"),
        (type("Derived", (StandardScaler,), {})(), "step Derived cannot be folded"),
        (
            ColumnTransformer([("a", MinMaxScaler(clip=True), [0, 1])]),
            r"MinMaxScaler\(clip=True\) within a ColumnTransformer",
        ),
        (ColumnTransformer([("a", Normalizer(), [0, 1])]), "step Normalizer cannot be folded"),
    ],
)
def test_other_steps_are_refused_by_name(step, message, tmp_path):
    pipeline = fitted(SelectKBest(k=3), step)
    with pytest.raises(TrainingError, match=message):
        export_pipeline(pipeline, tmp_path / "model.onnx", TRAIN.inputs)
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_from_the_pipeline_is_not_written(tmp_path, monkeypatch):
    pipeline = fitted(StandardScaler())
    monkeypatch.setitem(module.STEPS, StandardScaler, lambda _, weight: (weight, np.zeros(len(weight))))
    with pytest.raises(TrainingError, match=r"differ from the pipeline's by up to .*; nothing was written"):
        export_pipeline(pipeline, tmp_path / "model.onnx", TRAIN.inputs)
    assert not list(tmp_path.iterdir())


def test_other_pipelines_and_estimators_are_refused(tmp_path):
    other = make_pipeline(StandardScaler(), LINEAR).fit(TRAIN.inputs, TRAIN.labels)
    for given in (other, other[-1], LipschitzClassifier()):
        with pytest.raises(TrainingError, match="a Pipeline that ends in LipschitzClassifier is accepted"):
            export_pipeline(given, tmp_path / "model.onnx", TRAIN.inputs)
    pipeline = fitted(StandardScaler())
    with pytest.raises(TrainingError, match="X has 29 columns; the pipeline accepts 30"):
        export_pipeline(pipeline, tmp_path / "model.onnx", TRAIN.inputs[:, 1:])
    with pytest.raises(ValueError, match="Input contains NaN"):
        export_pipeline(
            pipeline, tmp_path / "model.onnx", np.where(TRAIN.inputs > 1000, np.nan, TRAIN.inputs)
        )
    pipeline[0].scale_[3] = 1e-300
    with pytest.raises(TrainingError, match="too small for float32 weights"):
        export_pipeline(pipeline, tmp_path / "model.onnx", TRAIN.inputs)
    with pytest.raises(AttributeError, match="no attribute 'export_all'"):
        _ = training.export_all


def test_rows_that_the_classifier_was_not_fitted_on_are_refused():
    """Raw rows are refused by a classifier fitted behind a scaler; the scaled rows are accepted."""
    for scaler in (StandardScaler(), MinMaxScaler(), RobustScaler(), MaxAbsScaler()):
        pipeline = fitted(scaler)
        with pytest.raises(
            InputError, match=r"of 142 rows, with numbers from 0 to 3143, are far outside .* use lipmodel"
        ):
            pipeline[-1].to_onnx(HELD_OUT.inputs)
        assert pipeline[-1].to_onnx(pipeline[:-1].transform(HELD_OUT.inputs))
