"""Certificates: one answer with everything that a third party needs to check it again.

A certificate states an input, the answer, its certified radius, and the bounds that the radius
follows from: for each rival, a score j of another class, with m_j = Σ λ_i scores[i] - scores[j] for a
mixture λ of the scores i of the answered class (mostly the largest of them alone),

    certified_radius < (1 - (d + 4) 2⁻⁵²) (m_j - 2 E_j) / (L_j + κ B_j),

or less than the ``bound_radius`` that a Clip in front of the model proves (``certify/box.py``), with
L_j = ``bound_lipschitz``, E_j = ``bound_error``, B_j = ``bound_error_slope`` of the rival and
κ = ``bound_norm_ratio`` (``radius.py``, ``mixtures.py``). L_j may rest on ``scaling``, weights with which
norms of dense layers have a smaller product (``scaling/bound.py``); any weights prove a bound. The
first factor pays for a caller that measures distances in float64. Numbers are written with as many digits as
give the same float64 back, so that none is ever rounded up. ``certify/issue.py`` makes certificates; the
conditions under which one holds are in ``lipmodel/verify``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lipmodel.certificates.strict_json import (
    integer,
    list_of,
    number,
    object_of,
    optional,
    parse_object,
    read_members,
    readers_of,
    sha256,
    shown,
)
from lipmodel.errors import CertificateError, InputError
from lipmodel.norms import Norm
from lipmodel.threat import Threat

FORMAT, OLDER_FORMAT = "lipcert-certificate/4", "lipcert-certificate/3"
METHOD = "pairwise Lipschitz margin less a priori rounding error"
EXECUTION = "float64"
_ANSWER = (
    "The answer is `label` to this input and to every input of float64 numbers {changed} at most "
    "`certified_radius`; from every execution of the model in float64 (each sum, product and fused "
    "multiply-add rounded to nearest, in any order, subnormal numbers kept or flushed to zero)"
)
_IN_BALL = _ANSWER.format(
    changed="whose distance from it, in the norm given, exact or computed in float64, is"
)
_SCALED = _ANSWER.format(
    changed="that equals it in every column of `scale` 0, and whose differences from it in the other "
    "columns, each divided by the column's `scale`, have the norm given, exact or computed in float64, of"
)
_WEIGHTS = (
    "with the weights stored in its file; where the file computes weights from these by "
    "floating-point arithmetic, with those whose digest is `folded_weights_sha256`, and no others. A radius "
    "of 0 promises nothing."
)
PROMISE, SCALED_PROMISE = f"{_IN_BALL} {_WEIGHTS}", f"{_SCALED} {_WEIGHTS}"
SMALLEST_WEIGHT = 2.0**-20


@dataclass(frozen=True)
class Share:
    """A score of the answered class, by its index among the raw scores, and its weight in a mixture."""

    score: int
    weight: float


@dataclass(frozen=True)
class InBox:
    """A radius that rests on a Clip in front of a model whose scores are linear in what it leaves.

    Attributes:
        multiplier: μ >= 0, with which the radius is proved (``certify/box.py``); 0 where no input that the
            Clip leaves has the rival's class. In linf the proof needs none.
        bound_radius: radius within which the rival stays below the mixture.
    """

    multiplier: float
    bound_radius: float


@dataclass(frozen=True)
class Rival:
    """A raw score of another class than the answered one, and bounds on the difference.

    Attributes:
        score: index among the raw scores.
        mixture: scores of the answered class compared with this one; weights add up to 1.
        bound_lipschitz: L, at least the Lipschitz constant of the mixture less this score.
        bound_error: E(ρ), at least the rounding error of that difference as computed at the input.
        bound_error_slope: B, at least the growth of that error per unit of the input's size.
        box: a larger radius by a Clip in front of the model; None where there is none.
    """

    score: int
    mixture: tuple[Share, ...]
    bound_lipschitz: float
    bound_error: float
    bound_error_slope: float
    box: InBox | None = None


@dataclass(frozen=True)
class Scaling:
    """Weights for the groups of a dense layer's numbers that are sorted next, each one by itself if none are.

    Attributes:
        tensor: output of the layer in the ONNX graph.
        mean: a, the weight of the mean of each group, in order of the groups' first entries.
        rest: b, the weight of each entry less the mean.
    """

    tensor: str
    mean: tuple[float, ...]
    rest: tuple[float, ...]


@dataclass(frozen=True)
class Certificate:
    """One answer of one model, and the bounds proved of it.

    Attributes:
        lipcert_version: version of Lipcert that made the certificate.
        model_sha256: digest of the ONNX file, in hexadecimal.
        folded_weights_sha256: digest of the weights that the file computes by floating-point arithmetic, as
            they were computed where the certificate was made (``graph.digest_tensors``); None where it
            computes none.
        input: the d float64 numbers answered to, in row-major order.
        input_sha256: digest of the input as little-endian float64.
        norm: the norm of the radius.
        scale: the size of one unit of change of each of the d numbers, 0 where it never changes; None where
            the radius is in the units of the numbers (``threat.py``).
        label, label_index: name and number of the answered class.
        runner_up, runner_up_index: name and number of the class that sets the radius, or the margin where
            nothing is certified.
        score_tensor: the tensor of the ONNX graph that the raw scores were taken from.
        scores: the M raw scores as computed, with the 0 of a binary classifier in front. The score
            of a class is the largest of those it owns.
        owners: the class of each raw score; -1 where it belongs to none.
        margin: the score of the answered class less the next, rounded down.
        certified_radius: see ``PROMISE``; 0 where nothing is certified.
        error_norm: the norm q in which the rounding error depends on the size of the input.
        bound_input_norm: ρ, at least the norm q of the input.
        bound_norm_ratio: κ, at least ‖v‖_q / ‖v‖_p for every change v of the input.
        scaling: of each dense layer of the last ones before the features, in order; mostly there is none.
        rivals: one for each raw score of another class, in order.
    """

    lipcert_version: str
    model_sha256: str
    folded_weights_sha256: str | None
    input: tuple[float, ...]
    input_sha256: str
    norm: Norm
    label: str
    label_index: int
    runner_up: str
    runner_up_index: int
    score_tensor: str
    scores: tuple[float, ...]
    owners: tuple[int, ...]
    margin: float
    certified_radius: float
    error_norm: Norm
    bound_input_norm: float
    bound_norm_ratio: float
    scaling: tuple[Scaling, ...]
    rivals: tuple[Rival, ...]
    scale: tuple[float, ...] | None = None

    @property
    def threat(self) -> Threat:
        """The threat set of the radius."""
        return Threat(self.norm, self.scale)

    def to_json(self) -> str:
        """Return one line of JSON that :meth:`from_json` reads back to the last bit."""
        members = asdict(self)
        if self.scale is None:
            del members["scale"]
        for rival in members["rivals"]:
            if rival["box"] is None:
                del rival["box"]
        return json.dumps({"format": FORMAT, **_constants(FORMAT, members), **members}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Certificate:
        """Read a certificate that :meth:`to_json` wrote, now or in the older format, and nothing else.

        The promise of the older format does not name folded weights, so it is read as stating that there are
        none.

        Raises:
            CertificateError: names the member that is missing, unknown, given twice or not of its type.
        """
        members = parse_object(text)
        if "format" not in members:
            raise CertificateError("is missing", field="format")
        written = members.pop("format")
        if written not in (FORMAT, OLDER_FORMAT):
            raise CertificateError(f"{shown(written)} is not supported; expected {FORMAT!r}", field="format")
        for name, value in _constants(written, members).items():
            if name not in members:
                raise CertificateError("is missing", field=name)
            if (given := members.pop(name)) != value:
                raise CertificateError(
                    f"{shown(given)} is not supported; expected {shown(value)}", field=name
                )
        if written == OLDER_FORMAT:
            if "folded_weights_sha256" in members:
                raise CertificateError("is unknown", field="folded_weights_sha256")
            members["folded_weights_sha256"] = None
            if "scale" in members:
                raise CertificateError("is unknown", field="scale")
            for index, rival in enumerate(members.get("rivals", ())):
                if isinstance(rival, dict) and "box" in rival:
                    raise CertificateError("is unknown", field=f"rivals[{index}].box")
        members.setdefault("scale", None)
        certificate = cls(**read_members(members, _READERS, ""))
        count = len(certificate.scores)
        if len(certificate.owners) != count:
            owners = len(certificate.owners)
            raise CertificateError(f"has {owners} entries for {count} scores", field="owners")
        for index, rival in enumerate(certificate.rivals):
            for named, where in ((rival.score, "score"), *((s.score, "mixture") for s in rival.mixture)):
                if named >= count:
                    raise CertificateError(f"there are only {count} scores", field=f"rivals[{index}].{where}")
        return certificate


def digest(values: Sequence[float]) -> str:
    """Return the SHA-256 of numbers as little-endian float64, in hexadecimal."""
    return hashlib.sha256(np.asarray(values, dtype="<f8").tobytes()).hexdigest()


# --- strict reading ------------------------------------------------------------------------


def _constants(written: str, members: Mapping[str, Any]) -> dict[str, str]:
    """Return the members that are the same in all certificates of a format and a kind of threat set."""
    if written == OLDER_FORMAT:
        promise = f"{_IN_BALL}. A radius of 0 promises nothing."
    else:
        promise = SCALED_PROMISE if "scale" in members else PROMISE
    return {"method": METHOD, "promise": promise, "execution": EXECUTION}


def _scale(value: Any, field: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    scale: tuple[float, ...] = list_of(number)(value, field)
    try:
        return Threat(Norm.TWO, scale).scale
    except InputError as error:
        raise CertificateError(error.reason, field=error.field.removeprefix("threat.")) from None


def _weight(value: Any, field: str) -> float:
    if not SMALLEST_WEIGHT <= number(value, field) <= 1.0 / SMALLEST_WEIGHT:
        accepted = f"{SMALLEST_WEIGHT} to {1.0 / SMALLEST_WEIGHT} are accepted"
        raise CertificateError(f"is {shown(value)}; {accepted}", field=field)
    return float(value)


share = object_of(Share, {})
"""Reader of a share of a mixture."""
_read_rival = object_of(Rival, {"mixture": list_of(share), "box": optional(object_of(InBox, {}))})


def _rival(value: Any, field: str) -> Rival:
    if isinstance(value, dict):
        if value.get("box", 0) is None:
            raise CertificateError("is null; an object is accepted", field=f"{field}.box")
        value = {"box": None} | value
    rival: Rival = _read_rival(value, field)
    return rival


_READERS = readers_of(
    Certificate,
    {
        "model_sha256": sha256,
        "folded_weights_sha256": optional(sha256),
        "input_sha256": sha256,
        "input": list_of(number),
        "scores": list_of(number),
        "owners": list_of(integer(-1)),
        "scale": _scale,
        "scaling": list_of(object_of(Scaling, dict.fromkeys(("mean", "rest"), list_of(_weight))), least=0),
        "rivals": list_of(_rival),
    },
)
