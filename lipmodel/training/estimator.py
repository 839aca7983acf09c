"""A scikit-learn classifier with a certified radius for every prediction."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.dataset import Dataset
from lipmodel.errors import InputError
from lipmodel.norms import Array, Norm
from lipmodel.training.export.onnx_export import export
from lipmodel.training.losses import Hinge, Loss, MultiClassHinge
from lipmodel.training.recipes import NetworkRecipe, Recipe, Schedule
from lipmodel.training.train import claims, fit_network


class LipschitzClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A GroupSort network classifier; each score is ``lipschitz``-Lipschitz in the input.

    Predictions and radii are those of the exported ONNX file, read as for certification; torch only
    trains. There is no ``predict_proba``, since margins are not probabilities
    (``sklearn.calibration.CalibratedClassifierCV`` calibrates ``decision_function``).

    Args:
        norm: norm of a change of the input: l1, l2 or linf, also as 1, 2 and inf.
        lipschitz: Lipschitz constant of each score, in that norm and in the units of X.
        widths: units of each hidden layer.
        activation: "maxmin", "fullsort" or "relu".
        margin: margin of the hinge loss, in scaled units: larger margins give larger radii, smaller margins a
            higher accuracy.
        scaling: divisor of X inside the network, "columns", "common" or "none"; radii stay in the units of X.
        epochs: passes over the data.
        batch_size: rows per step; all rows if there are fewer.
        learning_rate: peak learning rate.
        averaging: averaging of the weights over the last quarter of the training: "none", "uniform" or
            "exponential".
        random_state: an int, a RandomState or None; the same int gives the same file.

    Attributes:
        classes_: the labels, sorted.
        n_features_in_: number of columns of X.
        history_: learning curves.
        predictor_: the exported file, read as for certification.
    """

    def __init__(
        self,
        norm: str | int = "2",
        lipschitz: float = 1.0,
        *,
        widths: Sequence[int] = (64, 64),
        activation: str = "maxmin",
        margin: float = 1.0,
        scaling: str = "columns",
        epochs: int = 40,
        batch_size: int = 64,
        learning_rate: float = 0.005,
        averaging: str = "none",
        random_state: Any = 0,
    ) -> None:
        self.norm = norm
        self.lipschitz = lipschitz
        self.widths = widths
        self.activation = activation
        self.margin = margin
        self.scaling = scaling
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.averaging = averaging
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> LipschitzClassifier:  # noqa: N803
        """Train, export, and prove the Lipschitz bound of the exported file; return self.

        Args:
            X: (N, d) finite numbers.
            y: (N,) labels of at least two classes.

        Raises:
            ValueError: scikit-learn rejects X or y, y has one class, or the norm is unknown.
            RecipeError, DataError, TrainingError: an invalid parameter, numbers outside of float32, or a
                loss that is not finite.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)  # noqa: N806
        check_classification_targets(y)
        self.classes_, indices = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has only one class, {self.classes_[0]}; at least two classes are needed")
        names = tuple(str(label) for label in self.classes_)
        with np.errstate(over="ignore"):  # overflows to infinity, which is refused
            inputs = X.astype(np.float32)
        data = Dataset("X", inputs, indices.astype(np.int64), names, (X.shape[1],), "as in X")
        recipe = self._recipe(len(X))
        _, graph, fitted = fit_network(recipe, data, None)
        self.history_ = fitted.history
        self._content, self.predictor_ = export(graph, claims(recipe, data, None))
        self._least, self._largest = inputs.min(axis=0), inputs.max(axis=0)
        return self

    def _recipe(self, rows: int) -> Recipe:
        norm = Norm.parse(self.norm)
        margin = float(self.margin)
        loss: Loss = Hinge(margin) if len(self.classes_) == 2 else MultiClassHinge(margin)
        return Recipe(
            name=type(self).__name__,
            data="X",
            norm=norm,
            lipschitz=float(self.lipschitz),
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
            network=NetworkRecipe(
                widths=tuple(int(width) for width in self.widths),
                constraint="orthogonal" if norm is Norm.TWO else "rows",
                activation=self.activation,
            ),
            loss=loss,
            training=Schedule(
                epochs=int(self.epochs),
                batch_size=min(int(self.batch_size), rows),
                learning_rate=float(self.learning_rate),
                averaging=self.averaging,
            ),
            epsilons=(),
            scaling=self.scaling,
        )

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return the labels (N,) of inputs (N, d)."""
        inputs = self._inputs(X)
        return self.classes_[self.predictor_.predict(inputs).radii.label]

    def decision_function(self, X: Any) -> Array:  # noqa: N803
        """Return the scores (N, K) of inputs (N, d); for two classes (N,), positive for the second class."""
        inputs = self._inputs(X)
        scores = self.predictor_.predict(inputs).scores
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def certified_radius(self, X: Any, norm: str | int | None = None) -> Array:  # noqa: N803
        """Return the certified radii (N,): no smaller change of the input alters its label.

        A radius of 0 certifies nothing.

        Args:
            X: (N, d) inputs.
            norm: norm of the change, as for the constructor; by default the norm of the training.

        Raises:
            ValueError: the norm is unknown.
        """
        inputs, of = self._inputs(X), None if norm is None else Norm.parse(norm)
        return self.predictor_.predict(inputs, of).radii.certified_radius

    def to_onnx(self, X: Any = None) -> bytes:  # noqa: N803
        """Return the ONNX file's bytes, for ``lipmodel certify``, the service, or any runtime.

        The file takes rows as passed to ``fit``. Earlier steps of a pipeline are not in the file, and its
        labels and radii mean nothing on rows without these steps: ``lipmodel.training.export_pipeline``
        writes a whole pipeline as one file.

        Args:
            X: (N, d) rows as they will be sent to the file, compared with the rows of ``fit``. Without X a
                UserWarning states the range of the rows of ``fit``.

        Raises:
            InputError: most rows of X have a column outside of its range in ``fit`` by more than the
                width of that range.
        """
        check_is_fitted(self)
        taken = f"rows as passed to fit, with numbers from {self._least.min():g} to {self._largest.max():g}"
        if X is None:
            warnings.warn(
                f"the file takes {taken}. Pipeline steps before the classifier are not in the file; include "
                "them with lipmodel.training.export_pipeline. to_onnx(X) checks rows as they will be sent, "
                "and does not warn",
                stacklevel=2,
            )
            return self._content
        rows = self._inputs(X)
        width = self._largest - self._least
        far = ((rows < self._least - width) | (rows > self._largest + width))[:, width > 0].any(axis=1)
        if far.mean() > 0.5:
            raise InputError(
                f"{far.sum()} of {len(far)} rows, with numbers from {rows.min():g} to {rows.max():g}, are "
                f"far outside of the accepted range: {taken}. For a pipeline with steps before the "
                "classifier use lipmodel.training.export_pipeline",
                field="X",
            )
        return self._content

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_content")

    def _inputs(self, X: Any) -> Array:  # noqa: N803
        check_is_fitted(self)
        checked: Array = validate_data(self, X, dtype=np.float64, reset=False)
        return checked

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {key: value for key, value in state.items() if key != "predictor_"}  # holds an open session

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_content" in state:
            self.predictor_ = CertifiedPredictor(state["_content"])
