"""A certified classifier read from an ONNX file: scores, bounds and radii behind one class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lipmodel.certify.box import Box, find_box
from lipmodel.certify.boxed_radius import BoxedRule
from lipmodel.certify.head import Head, linear_head
from lipmodel.certify.linear_box import LinearBox, find_linear_box
from lipmodel.certify.lipschitz import LipschitzBounds, bound_lipschitz
from lipmodel.certify.radius import (
    FEW_SCORES,
    Radii,
    RadiusRule,
    after_rounding_inputs,
    bound_input_rounding,
)
from lipmodel.certify.rounding import FORMATS, RoundingBounds, bound_rounding, observed_least_rounding
from lipmodel.certify.tight.local_bounds import LocalBounds
from lipmodel.certify.tight.mixtures import Mixer
from lipmodel.certify.tight.tightener import Tightener, Tightening
from lipmodel.deadline import Deadline
from lipmodel.errors import InputError, ModelError, UnsupportedError, refusing_exhaustion
from lipmodel.network.execution import Execution, Float, as_evaluated
from lipmodel.network.metadata import LARGEST_INPUT, Claims, input_claims, read_claims
from lipmodel.network.reader.read import OnnxFile, read_onnx
from lipmodel.network.self_check import check_reading
from lipmodel.norms import Array, Norm, bound_vector_norm
from lipmodel.threat import Threat, as_threat

MAX_SCALED = 32
"""Maximum scaled threat sets whose bounds a predictor keeps."""


class Predictions(NamedTuple):
    """Answers to N inputs, each with its certified radius.

    Attributes:
        threat: threat set of the radii.
        execution: format of the evaluations, of this one and of those that radii speak of.
        scores: (N, K) scores as computed; (N, 1) of a binary classifier.
        raw_scores: (N, M) raw scores, of which class scores are maxima, see :class:`Head`.
        radii: label, margin, certified radius and runner-up, see :class:`Radii`.
        tightening: record of the slower tier; None where radii were not tightened.
    """

    threat: Threat
    execution: Float
    scores: Array
    raw_scores: Array
    radii: Radii
    tightening: Tightening | None = None

    @property
    def norm(self) -> Norm:
        """Return the norm of the radii."""
        return self.threat.norm

    def rows(self, which: slice | NDArray[np.bool_]) -> Predictions:
        """Return the answers to a selection of the inputs."""
        tightening = self.tightening
        if tightening is not None:
            parts = {n: getattr(tightening, n)[which] for n in ("method", "seconds", "probes", "complete")}
            tightening = replace(tightening, **parts)
        return Predictions(
            self.threat,
            self.execution,
            self.scores[which],
            self.raw_scores[which],
            Radii._make(column[which] for column in self.radii),
            tightening,
        )

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Return the answers to inputs that were given in parts, none of them tightened."""
        columns = zip(*((part.scores, part.raw_scores, *part.radii) for part in parts), strict=True)
        scores, raw_scores, *radii = map(np.concatenate, columns)
        return parts[0]._replace(scores=scores, raw_scores=raw_scores, radii=Radii(*radii))


class CertifiedPredictor:
    """Predictions with certified radii, from an ONNX file alone.

    A radius is a promise about *this* program: for every representable input within it, this
    predictor gives the same label, rounding included.

    Attributes:
        execution: the format that it evaluates in: float64, or that of :meth:`executing`.
        file: what was read: digest, graph, operators, metadata.
        claims: what the file says of itself.
        class_names: from the claims, or "0", "1", …

    Raises:
        FileFormatError, UnsupportedError: the file cannot be certified; see ``read_onnx``.
    """

    @refusing_exhaustion()
    def __init__(self, source: Path | bytes | OnnxFile, *, threads: int = 1) -> None:
        self.file: OnnxFile = source if isinstance(source, OnnxFile) else read_onnx(source)
        graph = self.file.graph
        count = max(2, graph.output_shape[0])
        self.claims: Claims = read_claims(self.file.metadata, count)
        self.class_names = self.claims.classes or tuple(str(i) for i in range(count))
        self.execution: Float = np.float64
        self._threads = threads
        self._lipschitz: dict[Threat, LipschitzBounds] = {}
        self._rounding: dict[tuple[Float, Norm], RoundingBounds] = {}
        self._executions: dict[Float, Execution] = {}
        self._rules: dict[tuple[Threat, Float, Float], RadiusRule] = {}
        self._local: dict[Threat, LocalBounds | str] = {}
        self._tighteners: dict[tuple[Threat, Float], Tightener] = {}
        check_reading(
            self.file,
            lambda x: self.head.output(self.scores_in_float64(x)),
            [self.rounding(dtype).of_evaluation() for dtype in (self.file.dtype, np.float64)],
        )

    def executing(self, execution: Float) -> CertifiedPredictor:
        """Return the predictor that evaluates in that format; all that is proved of the file is shared."""
        if execution is self.execution:
            return self
        other = copy(self)
        other.execution = execution
        return other

    @property
    def default_norm(self) -> Norm:
        """Return the default norm of radii: the one that the file names, else l2."""
        return self.claims.norm or Norm.TWO

    @property
    def claim_proved(self) -> bool | None:
        """Return whether the claimed Lipschitz constant is at least the one proved; None without a claim."""
        claims = self.claims
        if claims.lipschitz is None or claims.norm is None:
            return None
        return claims.lipschitz >= self.bounds(claims.norm).bound_global

    @cached_property
    def head(self) -> Head:
        """Return the head of the network."""
        return linear_head(self.file.graph)

    @cached_property
    def box(self) -> Box | None:
        """Return the box that a Clip in front of the network keeps its input in; None without one."""
        return find_box(self.file.graph)

    @cached_property
    def linear_box(self) -> LinearBox | None:
        """Return the raw scores as linear functions of a clipped input; None where they are none."""
        return None if self.box is None else find_linear_box(self.box)

    def _raw_scores(self, x: Array, dtype: Float) -> Array:
        """Return raw scores from the program that computes them in a format; opened once."""
        if dtype not in self._executions:
            self.check_execution(dtype)
            graph = replace(self.file.graph, output=self.head.scores).pruned()
            self._executions[dtype] = Execution(graph, dtype, self._threads)
        return self.head.raw_scores(self._executions[dtype].scores(x))

    def scores_in_float64(self, x: Array) -> Array:
        """Return raw scores (N, M) of inputs (N, d), in float64 in any case."""
        return self._raw_scores(x, np.float64)

    def bounds(self, threat: Threat | Norm) -> LipschitzBounds:
        """Return proved Lipschitz constants; computed once per threat set.

        Raises:
            InputError: the threat set is for another number of columns.
        """
        threat = as_threat(threat)
        if threat not in self._lipschitz:
            threat.check_size(self.file.graph.input_size)
            self._forget_oldest()
            with refusing_exhaustion():
                self._lipschitz[threat] = bound_lipschitz(self.file.graph, threat)
        return self._lipschitz[threat]

    def _forget_oldest(self) -> None:
        """Drop all that was derived for the oldest scaled threat set, where there are too many."""
        scaled = [threat for threat in self._lipschitz if threat.scale is not None]
        for oldest in scaled[: 1 - MAX_SCALED]:
            for derived in (self._lipschitz, self._local):
                derived.pop(oldest, None)
            for rule in [key for key in self._rules if key[0] == oldest]:
                self._rules.pop(rule, None)
            for tightener in [key for key in self._tighteners if key[0] == oldest]:
                self._tighteners.pop(tightener, None)

    def rounding(self, dtype: Float = np.float64, measured: Norm | None = None) -> RoundingBounds:
        """Return the proved error of evaluation in a format; computed once.

        Inputs may be measured in l2 or linf: either gives a sound bound. By default the norm is the one with
        the smaller bound for an input spread evenly over [-1, 1].
        """
        if measured is None:
            even = np.linspace(-1.0, 1.0, self.file.graph.input_size)[None, :]

            def error(bounds: RoundingBounds) -> float:
                return float(bounds.score_error(bound_vector_norm(even, bounds.norm, axis=1)).max())

            by_rows = self.rounding(dtype, Norm.INF)
            if error(observed_least_rounding(self.file.graph, Norm.TWO, FORMATS[dtype])) > error(by_rows):
                return by_rows  # and no spectral norm is needed
            return min(self.rounding(dtype, Norm.TWO), by_rows, key=error)
        if (dtype, measured) not in self._rounding:
            with refusing_exhaustion():
                self._rounding[dtype, measured] = bound_rounding(self.file.graph, measured, FORMATS[dtype])
        return self._rounding[dtype, measured]

    def rule(
        self, threat: Threat | Norm, promised: Float = np.float64, evaluated: Float = np.float64
    ) -> RadiusRule:
        """Return the formula from scores to radii; made once.

        Args:
            threat: threat set of the radii.
            promised: format of the evaluations that radii speak of.
            evaluated: format that the scores were computed in.
        """
        threat = as_threat(threat)
        key = threat, promised, evaluated
        if key not in self._rules:
            bounds = self.rounding(promised)
            size, computed = self.file.graph.input_size, self.rounding(evaluated, bounds.norm)
            with refusing_exhaustion():
                lipschitz = self.bounds(threat)
                if (linear := self.linear_box) is None:
                    rule = RadiusRule(self.head.owners, lipschitz, computed, bounds, input_size=size)
                else:
                    rule = BoxedRule(linear, lipschitz, computed, bounds, input_size=size)
                self._rules[key] = rule
        return self._rules[key]

    def is_prepared(self, threat: Threat) -> bool:
        """Return whether the bounds that a prediction for a threat set needs are derived."""
        rule = self._rules.get((threat, self.execution, self.execution))
        return rule is not None and rule.ready

    def prepare(self, threat: Threat | Norm) -> None:
        """Derive now the bounds that the first prediction for a threat set would otherwise wait for.

        Raises:
            UnsupportedError: the file cannot be evaluated in the predictor's format.
        """
        self.predict(np.zeros((1, self.file.graph.input_size)), threat)

    def ready(self) -> CertifiedPredictor:
        """Return the predictor itself, bounds derived: in its own norm, and with few scores in every norm.

        Raises:
            ModelError: a bound overflows, so nothing can be certified.
        """
        for norm in Norm:
            if norm is self.default_norm or len(self.head.owners) <= FEW_SCORES:
                self.prepare(norm)
            if not math.isfinite(self.bounds(norm).bound_global):
                raise ModelError(f"its Lipschitz bound in norm {norm} overflows, so nothing can be certified")
        return self

    def ready_for_all(self) -> CertifiedPredictor:
        """Return the predictor itself, prepared for every norm and execution that can be set for it.

        Raises:
            ModelError: as :meth:`ready`.
        """
        self.ready()
        for norm in Norm:
            self.prepare(norm)
            with suppress(UnsupportedError):  # float32 execution is refused when it is asked for
                self.executing(np.float32).prepare(norm)
        return self

    def parse_threat(self, description: Mapping[str, Any]) -> Threat:
        """Return the threat set of a JSON object, see :meth:`Threat.parse`, for the columns of this model.

        Raises:
            InputError: the description is not accepted; ``field`` names the member.
        """
        size = self.file.graph.input_size
        columns = input_claims(self.claims.record, size).columns
        return Threat.parse(description, columns, size, self.default_norm)

    def check_inputs(self, inputs: Any, first_row: int = 0) -> Array:
        """Return inputs as a float64 array (N, d); errors count rows from ``first_row``.

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
        sizes = np.abs(flat)
        if not sizes.max() <= LARGEST_INPUT:  # NaN compares false
            bad = ~(sizes <= LARGEST_INPUT)
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise InputError(
                f"{flat[row, column]} is not a finite number within float32 (±{LARGEST_INPUT:.4g})",
                field=f"inputs[{first_row + row}][{column}]",
            )
        return flat

    def mixer(self, threat: Threat | Norm, execution: Float = np.float64) -> Mixer:
        """Return the comparison of classes with one another, for radii about evaluations in a format.

        Its scores are computed in float64, whose error is the smaller one.
        """
        return Mixer(self.head, self.rule(threat, execution))

    def tightener(self, threat: Threat | Norm, execution: Float = np.float64) -> Tightener:
        """Return the slower, tighter tier for radii about evaluations in a format; made once."""
        threat = as_threat(threat)
        if (threat, execution) not in self._tighteners:
            if threat not in self._local:  # it bounds the exact function, whatever evaluates it
                graph = self.file.graph if self.box is None else self.box.behind
                graph = replace(graph, output=self.head.scores).pruned()
                try:
                    self._local[threat] = LocalBounds(graph, threat, self._threads, self.box)
                except UnsupportedError as error:
                    self._local[threat] = str(error)
            self._tighteners[threat, execution] = Tightener(
                self.mixer(threat, execution), self._local[threat]
            )
        return self._tighteners[threat, execution]

    def predict(
        self,
        inputs: Any,
        threat: Threat | Norm | None = None,
        *,
        tighten: bool = False,
        execution: Float | None = None,
    ) -> Predictions:
        """Return scores, labels and certified radii of inputs (N, d) or (N, *input_shape).

        With ``tighten`` each radius is the largest of the Lipschitz bound's, the one that mixtures of a
        class's own scores prove and the one that local bounds prove, sound in the same sense; it takes
        about a thousand times as long, input by input. ``tightening`` says which, and where local
        bounds are not available for a graph, why.

        In float32 execution scores take about half the time, inputs are rounded to float32 first, and
        every radius speaks of float32 evaluations, this one and every other: see :meth:`portable_radii`.

        Args:
            inputs: inputs to answer.
            threat: threat set of the radii, or the norm of a ball; by default the norm that the file names.
            tighten: whether to prove larger radii.
            execution: format to evaluate in; by default the predictor's own.

        Raises:
            InputError: see :meth:`check_inputs`; or the threat set is for another number of columns.
            UnsupportedError: float32 execution of a file that :meth:`check_execution` refuses.
        """
        return self.answer(
            self.check_inputs(inputs), threat or self.default_norm, tighten=tighten, execution=execution
        )

    def answer(
        self,
        x: Array,
        threat: Threat | Norm,
        *,
        tighten: bool = False,
        execution: Float | None = None,
        deadline: Deadline | None = None,
    ) -> Predictions:
        """Return the result of :meth:`predict` for inputs that :meth:`check_inputs` returned.

        At the deadline radii are tightened as far as they are; without one, as far as may be.
        """
        execution, threat = execution or self.execution, as_threat(threat)
        seen = as_evaluated(x, execution)
        raw = self._raw_scores(seen, execution)
        radii, tightening = self.rule(threat, execution, execution)(raw, seen), None
        if tighten:
            near = raw if execution is np.float64 else self._raw_scores(seen, np.float64)
            radii, tightening = self.tightener(threat, execution)(near, seen, radii, deadline)
        if execution is np.float32:
            left = after_rounding_inputs(radii.certified_radius, bound_input_rounding(x, seen, threat))
            radii = radii._replace(certified_radius=left)
        return Predictions(threat, execution, self.head.output(raw), raw, radii, tightening)

    def check_execution(self, execution: Float) -> None:
        """Raise UnsupportedError where a program in a format would not be the file's.

        Float32 execution takes a file that computes in float32 throughout, with weights that all are float32
        numbers: behind a Cast to float64 they need not be.
        """
        if execution is np.float64:
            return
        file = self.file
        if file.score_dtype is not np.float32 or not file.portable:
            raise UnsupportedError(
                "float32 execution takes a file that computes in float32 throughout, with weights that are "
                'not computed in it; set execution = "float64" for this one'
            )
        for op in file.graph.ops:
            arrays = [v for v in vars(op).values() if isinstance(v, np.ndarray) and v.dtype == np.float64]
            if not all((array == array.astype(np.float32)).all() for array in arrays):
                raise UnsupportedError(
                    "float32 execution takes weights that are float32 numbers", node=op.node
                )

    def portable_radii(self, inputs: Any, threat: Threat | Norm | None = None) -> Array:
        """Return (N,) radii that hold for every conforming runtime of the file, in the file's own format.

        They speak of float32 evaluations of a float32 file, whose error bound is larger than that of
        this predictor's float64 evaluation, so they are smaller than the served radii; the scores they
        start from are the same. Both are about the label that :meth:`predict` gives. Inputs that are
        no float32 numbers are rounded, and the distance that this moves them is taken off (and off
        every x' likewise); where rounding gives x another label, the radius is 0.
        All are 0 where the file computes weights from others (``file.portable``). A file in float64 is
        evaluated as by this predictor, and what it certifies of inputs is so everywhere.

        Raises:
            InputError: see :meth:`check_inputs`.
        """
        threat = as_threat(threat or self.default_norm)
        x = self.check_inputs(inputs)
        rounded = as_evaluated(x, self.file.dtype)
        raw = self._raw_scores(rounded, np.float64)
        radii = self.rule(threat, self.file.dtype)(raw, rounded)
        left = radii.certified_radius
        if self.file.dtype is np.float32:
            left = after_rounding_inputs(left, bound_input_rounding(x, rounded, threat))
        # Where r > 0, float32 execution gives the label of raw; float64 execution reads x as it is.
        same = self.execution is np.float32 or (rounded == x).all()
        own = raw if same else self._raw_scores(x, np.float64)
        agree = self.file.portable & (radii.label == self.head.owners[self.head.best(own)])
        return np.where(agree, left, 0.0)
