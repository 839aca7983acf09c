"""Proof of a certificate's statements from its model and input."""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction
from functools import cached_property

import flint
import numpy as np
import onnx
from flint import arb

from lipmodel.certificates.format import Certificate, Rival
from lipmodel.errors import ModelError
from lipmodel.network import ops
from lipmodel.network.execution import Execution, Float
from lipmodel.network.metadata import read_claims
from lipmodel.network.reader.read import OnnxFile, without_dead
from lipmodel.network.self_check import EvaluationBounds, check_reading
from lipmodel.network.session import open_session
from lipmodel.norms import Norm
from lipmodel.verify.box import box_of, boxed_scores, fall
from lipmodel.verify.consistency import Check, float_slack, mixed, nearest_float
from lipmodel.verify.evaluation import evaluate
from lipmodel.verify.exact_numbers import PRECISION, vector_norm
from lipmodel.verify.layer_norms import layer_norms
from lipmodel.verify.linear_head import LinearEnd, linear_end, owners
from lipmodel.verify.lipschitz import Layers, lipschitz_constants
from lipmodel.verify.rounding import NOTHING, Affine, rounding
from lipmodel.verify.scaling import ScalingError, scaled


class Proof:
    """Exact checks of certificates against one ONNX file; bounds on its layers are computed once."""

    def __init__(self, file: OnnxFile) -> None:
        self.file = file

    @cached_property
    def folded_sha256(self) -> str | None:
        """The digest of the weights that the file computes when it is run as a whole.

        Raises:
            ModelError: they are not those that the reader computed, of which all here is proved.
        """
        found = digest_folded(self.file)
        if found != self.file.folded_sha256:
            raise ModelError("the weights that it computes are others when it is run as a whole")
        return found

    @cached_property
    def layers(self) -> Layers:
        """Return the norms of each Dense and Conv."""
        return {
            op.output: layer_norms(op) for op in self.file.graph.ops if isinstance(op, ops.Dense | ops.Conv)
        }

    def check_reading(self) -> None:
        """Run the file beside the program written from its graph, within rounding errors proved here.

        Raises:
            ModelError: see :func:`lipmodel.network.self_check.check_reading`.
        """
        program = Execution(self.file.graph, np.float64)
        with flint.ctx.workprec(PRECISION):
            end = linear_end(self.file.graph, self.file.graph.output)
            bounds = [self._evaluation(end, dtype) for dtype in (self.file.dtype, np.float64)]
        check_reading(self.file, program.scores, bounds)

    def _evaluation(self, end: LinearEnd, execution: Float) -> EvaluationBounds:
        proved = rounding(end, self.layers, Norm.INF, execution)
        rows = [vector_norm(row, Norm.INF.dual) for row in end.rows]
        errors = [proved.features * row + local for row, local in zip(rows, proved.scores, strict=True)]
        constants, slopes = np.array([[_above(e.constant), _above(e.slope)] for e in errors]).T
        return EvaluationBounds(
            norm=Norm.INF,
            constant=max(_above(magnitude.constant) for magnitude in proved.magnitudes),
            slope=max(_above(magnitude.slope) for magnitude in proved.magnitudes),
            limit=proved.limit,
            score_error=lambda size: np.asarray((constants + slopes * size[:, None]).max(axis=1)),
        )

    def check(self, certificate: Certificate) -> list[Check]:
        """Return checks of the statements that need the model, up to a failure that others depend on."""
        with flint.ctx.workprec(PRECISION):
            checks = []
            for name, statement in (
                ("digest of the model", self._digest),
                ("digest of folded weights", self._folded),
                ("length of the input", self._length),
                ("owners of the scores", self._owners),
                ("names of the classes", self._names),
            ):
                checks.append(Check(name, statement(certificate)))
                if not checks[-1].passed:
                    return checks
            return checks + self._bounds(certificate)

    def _digest(self, certificate: Certificate) -> str:
        stated, found = certificate.model_sha256, self.file.sha256
        return "" if found == stated else f"states {stated}, it is {found}"

    def _folded(self, certificate: Certificate) -> str:
        stated = certificate.folded_weights_sha256
        if self.folded_sha256 == stated:
            return ""
        if self.folded_sha256 is None:
            return f"states {stated}; the file computes no weights"
        return (
            f"states {stated or 'none'}; the weights that onnxruntime computes here have the digest "
            f"{self.folded_sha256}, so the certificate does not speak of them"
        )

    def _length(self, certificate: Certificate) -> str:
        given, wanted = len(certificate.input), self.file.graph.input_size
        return "" if given == wanted else f"has {given} numbers; the model takes {wanted}"

    def _owners(self, certificate: Certificate) -> str:
        tensor, count = certificate.score_tensor, len(certificate.owners)
        size = math.prod(self.file.graph.shapes().get(tensor, ()))
        if size not in (count, count - 1):  # the 0 of a binary classifier is in no tensor
            return f"states {count} scores; the tensor '{tensor}' has {size}"
        found = owners(self.file.graph, tensor)
        if found is None:
            return f"the classes' scores are no maxima of the entries of the tensor '{tensor}'"
        return "" if tuple(found) == certificate.owners else f"the entries of '{tensor}' belong to {found}"

    def _names(self, certificate: Certificate) -> str:
        count = max(certificate.owners) + 1
        names = read_claims(self.file.metadata, count).classes or tuple(str(i) for i in range(count))
        for index, name in (
            (certificate.label_index, certificate.label),
            (certificate.runner_up_index, certificate.runner_up),
        ):
            if index >= count or names[index] != name:
                return f"class {index} is not named '{name}'"
        return ""

    def _bounds(self, certificate: Certificate) -> list[Check]:
        """Check scores, bounds and radius against the bounds proved here."""
        try:
            proved = _Proved(self, certificate)
        except ScalingError as unfit:
            return [Check("scaling", str(unfit))]
        lipschitz, errors, reach, boxes = [], [], [], []
        radius = arb(certificate.certified_radius) / _ball(
            float_slack(len(certificate.input), certificate.threat)
        )
        far = proved.reach(radius)
        for rival in certificate.rivals:
            constant, error = proved.lipschitz(rival), proved.error(rival)
            at_center = error.at(proved.size)
            who = f"rival {rival.score}"
            if rival.box is not None and not proved.holds_in_box(rival, error):
                boxes.append(f"{who} is stated to stay below within {rival.box.bound_radius!r}: not proved")
            lipschitz.append(_at_least(f"{who}, L", rival.bound_lipschitz, constant))
            errors.append(_at_least(f"{who}, E", rival.bound_error, at_center))
            errors.append(_at_least(f"{who}, B", rival.bound_error_slope, error.slope))
            # M - L r - E(ρ + κr) > 0: no execution within r puts this rival above all that stand against it
            margin = proved.margin(rival) - error.at(far)
            if not (margin > constant * radius or proved.stays_below_in_box(rival, margin, radius)):
                room = (proved.margin(rival) - at_center) / (constant + proved.ratio * error.slope)
                reach.append(
                    f"states {certificate.certified_radius!r}; proved against {who} is {_shown(room)}"
                )
        if certificate.certified_radius == 0.0:
            reach = []  # nothing is promised
        elif proved.rounding.overflows(far):
            reach.append("within the radius some intermediate result may overflow")
        return [
            Check("scores", proved.scores_reason()),
            Check("Lipschitz constants", _first(lipschitz)),
            Check("rounding errors", _first(errors)),
            *([Check("radii in the box", _first(boxes))] if any(r.box for r in certificate.rivals) else []),
            Check("radius", _first(reach)),
        ]


class _Proved:
    """Bounds proved for one answer."""

    def __init__(self, proof: Proof, certificate: Certificate) -> None:
        graph, tensor = proof.file.graph, certificate.score_tensor
        end = linear_end(graph, tensor)
        self.certificate, self.norm = certificate, certificate.error_norm
        self.features = lipschitz_constants(end.body, proof.layers, certificate.threat)
        self.scaled = scaled(end.body, certificate.scaling, proof.layers, certificate.threat)
        self.rounding = rounding(end, proof.layers, self.norm)
        exact = evaluate(graph, certificate.input, tensor)
        self.exact = [Fraction(int(v), exact.denominator) for v in exact.numerators]
        self.rows, self.local = end.rows, self.rounding.scores
        if len(certificate.scores) > len(self.exact):  # the 0 of a binary classifier, which is exact
            self.exact.insert(0, Fraction(0))
            self.rows = [[arb(0)] * len(end.rows[0]), *end.rows]
            self.local = [NOTHING, *self.local]
        # That ρ and κ are bounds is a check of consistency; with larger ones everything here is larger.
        self.size, self.ratio = arb(certificate.bound_input_norm), arb(certificate.bound_norm_ratio)
        self.box = box_of(graph)
        self.boxed = None if self.box is None else boxed_scores(end.body, self.box)

    def reach(self, radius: arb) -> arb:
        """Return at least the norm of every input within the radius, clipped as evaluation clips it."""
        if self.box is None:
            return self.size + self.ratio * radius
        far = vector_norm(self.box.clip(self.certificate.input), self.norm) + self.ratio * radius
        largest = self.box.size(self.norm)
        return far if largest is None else far.min(largest)

    def holds_in_box(self, rival: Rival, error: Affine) -> bool:
        """Return whether the radius stated of the box is proved."""
        assert rival.box is not None
        radius = arb(rival.box.bound_radius)
        margin = self.margin(rival) - error.at(self.reach(radius))
        return self.stays_below_in_box(rival, margin, radius)

    def stays_below_in_box(self, rival: Rival, margin: arb, radius: arb) -> bool:
        """Return whether the stated μ proves that the rival stays below its mixture within the radius."""
        if self.box is None or self.boxed is None or rival.box is None:
            return False
        row = self.boxed.row(self._row(rival))
        z = self.box.clip(self.certificate.input)
        least = fall(row, self.box, z, self.certificate.threat, radius, arb(rival.box.multiplier))
        return bool(margin > least)

    def margin(self, rival: Rival) -> arb:
        """Return the exact margin of a rival's mixture over the rival's score."""
        return _ball(mixed(self.exact, rival) - self.exact[rival.score])

    def lipschitz(self, rival: Rival) -> arb:
        """Return L: ‖Σ λ_i w_i - w_j‖_{s*} L_s for the best s, or in the scaled norm."""
        row = self._row(rival)
        bound = self.features.lipschitz(row)
        return bound if self.scaled is None else min(bound, self.scaled(row))

    def _row(self, rival: Rival) -> list[arb]:
        """Return Σ λ_i w_i - w_j."""
        row = [-entry for entry in self.rows[rival.score]]
        for share in rival.mixture:
            weight = arb(share.weight)
            row = [a + weight * b for a, b in zip(row, self.rows[share.score], strict=True)]
        return row

    def error(self, rival: Rival) -> Affine:
        """Return E: Σ λ_i (‖w_i - w_j‖_{q*} D + e_i + e_j)."""
        total = NOTHING
        for share in rival.mixture:
            pairs = zip(self.rows[share.score], self.rows[rival.score], strict=True)
            distance = vector_norm([a - b for a, b in pairs], self.norm.dual)
            pair = self.rounding.features * distance + self.local[share.score] + self.local[rival.score]
            total = total + pair * arb(share.weight)
        return total

    def scores_reason(self) -> str:
        """Return the reason why a stated score is not one of the file's; empty if all are."""
        for index, (stated, exact) in enumerate(zip(self.certificate.scores, self.exact, strict=True)):
            reach = self.rounding.features * vector_norm(self.rows[index], self.norm.dual) + self.local[index]
            away = Fraction(stated) - exact
            if away and not abs(_ball(away)) <= reach.at(self.size):
                found = nearest_float(exact)
                return f"scores[{index}] is {stated!r}; exactly it is {found!r}, beyond any rounding"
        return ""


def _ball(value: Fraction) -> arb:
    return arb(value.numerator) / value.denominator


def _above(bound: arb) -> float:
    return float(np.nextafter(float(bound.upper()), np.inf))


def _shown(bound: arb) -> str:
    return repr(float(bound.mid()))


def _at_least(what: str, stated: float, proved: arb) -> str:
    if proved <= arb(stated):
        return ""
    return f"{what} is stated to be at most {stated!r}; proved is {_shown(proved)}"


def _first(reasons: list[str]) -> str:
    return next((reason for reason in reasons if reason), "")


def digest_folded(file: OnnxFile) -> str | None:
    """Return the digest that names the weights that a file computes; None where it computes none.

    The reader computes them one by one (``network/reader/constants.py``). Here onnxruntime runs the whole
    file, and is asked for them as it is for the scores.
    """
    if not file.folded:
        return None
    model = onnx.load_model_from_string(without_dead(file.content, file.output))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in file.folded)
    session = open_session(model.SerializeToString())
    (given,) = session.get_inputs()
    batch = given.shape[0] if isinstance(given.shape[0], int) else 1
    zeros = np.zeros((batch, *file.graph.input_shape), file.dtype)
    arrays = session.run(list(file.folded), {given.name: zeros})
    digest = hashlib.sha256()
    for name, array in zip(file.folded, arrays, strict=True):
        header = json.dumps([name, array.dtype.name, list(array.shape)])
        unsigned = np.where(array == 0, array.dtype.type(0), array)
        digest.update(header.encode() + b"\n" + unsigned.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
