"""A classifier read from an ONNX file, and everything the certificate knows of it, behind one class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lipmodel.certify.claims import Claims, read_claims
from lipmodel.certify.execution import Execution, open_session
from lipmodel.certify.graph import OnnxFile, read_onnx
from lipmodel.certify.lipschitz import LipschitzBounds, bound_lipschitz
from lipmodel.certify.radius import Radii, certified_radii
from lipmodel.certify.rounding import FORMATS, RoundingBounds, bound_rounding
from lipmodel.errors import InputError, ModelError
from lipmodel.norms import Array, Norm, bound_vector_norm

SELF_CHECK_POINTS = 64
LARGEST_INPUT = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Answers to N inputs, each with what is certified of it.

    Attributes:
        norm: the norm of the radii.
        scores: (N, K) as computed in float64; (N, 1) of a binary classifier.
        radii: label, margin, certified radius and runner-up, see :class:`Radii`.
    """

    norm: Norm
    scores: Array
    radii: Radii


class CertifiedPredictor:
    """Predictions with certified radii, from an ONNX file alone.

    A radius is a promise about *this* program: for every representable input within it, this
    predictor gives the same label, rounding included. Evaluation is in float64.

    Attributes:
        file: what was read: digest, graph, operators, metadata.
        claims: what the file says of itself.
        class_names: from the claims, or "0", "1", …

    Raises:
        FileFormatError, UnsupportedError: the file cannot be certified; see ``read_onnx``.
    """

    def __init__(self, source: Path | bytes, *, threads: int = 1) -> None:
        self.file: OnnxFile = read_onnx(source)
        graph = self.file.graph
        count = max(2, graph.output_shape[0])
        self.claims: Claims = read_claims(self.file.metadata, count)
        self.class_names = self.claims.classes or tuple(str(i) for i in range(count))
        self._threads = threads
        self._lipschitz: dict[Norm, LipschitzBounds] = {}
        self._rounding: dict[tuple[Norm, Any], RoundingBounds] = {}
        self._check_against_the_file()

    @property
    def default_norm(self) -> Norm:
        """The norm that radii are in when none is asked for: the one the file names, else l2."""
        return self.claims.norm or Norm.TWO

    @property
    def claim_proved(self) -> bool | None:
        """Whether the claimed Lipschitz constant is at least the one proved; None without a claim."""
        claims = self.claims
        if claims.lipschitz is None or claims.norm is None:
            return None
        return claims.lipschitz >= self.bounds(claims.norm).bound_global

    @cached_property
    def _execution(self) -> Execution:
        return Execution(self.file.graph, np.float64, self._threads)

    def bounds(self, norm: Norm) -> LipschitzBounds:
        """Proved Lipschitz constants; computed once a norm."""
        if norm not in self._lipschitz:
            self._lipschitz[norm] = bound_lipschitz(self.file.graph, norm)
        return self._lipschitz[norm]

    def rounding(self, norm: Norm, dtype: Any = np.float64) -> RoundingBounds:
        """Proved error of evaluation, with inputs measured in l2, or linf where radii are in linf."""
        working = Norm.INF if norm is Norm.INF else Norm.TWO
        if (working, dtype) not in self._rounding:
            self._rounding[working, dtype] = bound_rounding(self.file.graph, working, FORMATS[dtype])
        return self._rounding[working, dtype]

    def check_inputs(self, inputs: Any) -> Array:
        """Inputs as a float64 array (N, d).

        Raises:
            InputError: not numbers, wrong shape, no rows, NaN, an infinity, or beyond float32.
        """
        array = np.asarray(inputs)
        if array.dtype.kind not in "fiu":
            raise InputError(f"numbers are accepted, not {array.dtype}")
        shape, size = self.file.graph.input_shape, self.file.graph.input_size
        if array.ndim < 2 or (array.shape[1:] != shape and array.shape[1:] != (size,)):
            accepted = f"[rows, {size}]" + (f" or {['rows', *shape]}" if len(shape) > 1 else "")
            raise InputError(f"has shape {list(array.shape)}; {accepted} is accepted")
        if not len(array):
            raise InputError("is empty; at least one row is accepted")
        flat = array.reshape(len(array), size).astype(np.float64)
        bad = ~(np.abs(flat) <= LARGEST_INPUT)  # NaN compares false
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise InputError(
                f"{flat[row, column]} is not a finite number within float32 (±{LARGEST_INPUT:.4g})",
                field=f"inputs[{row}][{column}]",
            )
        return flat

    def predict(self, inputs: Any, norm: Norm | None = None) -> Predictions:
        """Scores, labels and certified radii of (N, d) or (N, *input_shape) inputs.

        Raises:
            InputError: see :meth:`check_inputs`.
        """
        norm = norm or self.default_norm
        x = self.check_inputs(inputs)
        scores = self._execution.scores(x)
        return Predictions(norm, scores, certified_radii(scores, x, self.bounds(norm), self.rounding(norm)))

    def _check_against_the_file(self) -> None:
        """Runs the file as it stands beside the program written from its graph.

        Both must agree within the proved rounding errors on random points, or the file means
        something other than what was read.

        Raises:
            ModelError: onnxruntime cannot run the file, or runs something else.
        """
        file, graph = self.file, self.file.graph
        rng = np.random.default_rng(int(file.sha256[:8], 16))
        points = rng.normal(size=(SELF_CHECK_POINTS, graph.input_size)).astype(np.float32).astype(np.float64)
        points *= rng.choice([0.01, 1.0, 100.0], size=(SELF_CHECK_POINTS, 1))
        points = points.astype(np.float32).astype(np.float64)
        try:
            session = open_session(file.content)
            x = points.astype(file.dtype).reshape(-1, *graph.input_shape)
            batch = session.get_inputs()[0].shape[0]
            step = batch if isinstance(batch, int) else len(x)
            theirs = np.concatenate(
                [
                    session.run(None, {graph.input: x[i : i + step]})[0]
                    for i in range(0, len(x) - step + 1, step)
                ]
            ).astype(np.float64)
            ours = self._execution.scores(points[: len(theirs)])
        except Exception as error:  # onnxruntime raises many kinds; each is a refusal
            raise ModelError(f"onnxruntime cannot run the file: {error}") from error
        points = points[: len(theirs)]
        if theirs.shape != ours.shape:
            raise ModelError(f"the file gives scores of shape {theirs.shape}, its graph {ours.shape}")
        if ours.shape[1] == 1:
            theirs, ours = (np.hstack([np.zeros_like(s), s]) for s in (theirs, ours))
        size = bound_vector_norm(points, Norm.TWO, axis=1)[:, None, None]
        allowed = np.zeros((1, 1, 1))
        for dtype in (file.dtype, np.float64):
            rounding = self.rounding(Norm.TWO, dtype)
            allowed = allowed + rounding.constant + rounding.slope * size
        difference = (theirs[:, :, None] - theirs[:, None, :]) - (ours[:, :, None] - ours[:, None, :])
        if not (np.abs(difference) <= allowed * (1 + 1e-9)).all():
            raise ModelError(
                "onnxruntime computes something other than the graph that was read from the file "
                f"(largest difference of scores {np.abs(difference).max():.3g})"
            )
