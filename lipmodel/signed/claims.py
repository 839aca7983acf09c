"""The contents of a signed certificate, written and strictly read.

The radius follows from the stated bounds of the rival j that sets it, with d the size of the input:

    (1 + u) r / (1 - (d + 4) 2⁻⁵²) + T < (M - E) / (L + κ B),        <= R

with r = ``certified_radius``, M = ``bound_margin``, E = ``bound_error``, B = ``bound_error_slope``,
L = ``bound_lipschitz``, κ = ``bound_norm_ratio``, T = ``bound_input_rounding``, R = ``bound_overflow_radius``
(``radius.py``, ``mixtures.py``); u = 2⁻²⁴ where the execution is float32, else 0. Where ``method`` is
"local" or "box", the radius is larger: it was proved by bounds local to a ball, or by a Clip in front of the
model, whose check needs the model.

Format 1 states m = ``bound_lead`` of the scores as computed, so that M = m - E, and only covers float64.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from lipmodel.certificates.format import Share, share
from lipmodel.certificates.strict_json import (
    Reader,
    integer,
    list_of,
    number,
    parse_object,
    read_members,
    readers_of,
    sha256,
    shown,
    text,
)
from lipmodel.errors import CertificateError
from lipmodel.norms import Norm

METHODS = ("lipschitz", "mixture", "box", "local")
INPUT_ROUNDOFF = {"float64": Fraction(0), "float32": Fraction(1, 2**24)}
"""u, the unit roundoff with which each execution rounds float64 inputs."""


@dataclass(frozen=True, kw_only=True)
class _Bounds:
    """Bounds of the rival that sets the radius, common to both formats.

    Attributes:
        rival: index of a raw score of another class.
        mixture: scores of the predicted class that are compared with the rival; weights add up to 1.
        bound_lipschitz: L, Lipschitz constant of the mixture less the rival's score.
        bound_error: E, error of this difference as evaluated by an execution.
        bound_error_slope: B, growth of E per unit of the input's size.
        bound_norm_ratio: κ, ratio of the norm in which this size is measured to the radius's norm.
        bound_overflow_radius: R, radius within which no intermediate result overflows.
    """

    rival: int
    mixture: tuple[Share, ...]
    bound_lipschitz: float
    bound_error: float
    bound_error_slope: float
    bound_norm_ratio: float
    bound_overflow_radius: float

    @property
    def margin(self) -> Fraction:
        """M, a lower bound on the exact mixture less the exact score of the rival."""
        raise NotImplementedError

    @property
    def input_rounding(self) -> Fraction:
        """T, growth of a change when the execution rounds both inputs, in addition to u times the change."""
        raise NotImplementedError

    def supports(self, radius: float, size: int, execution: str) -> bool:
        """Return True if the radius follows, exactly, for inputs of that many numbers."""
        slack, margin, lipschitz = self._terms(size)
        change = (1 + INPUT_ROUNDOFF[execution]) * Fraction(radius) + slack * self.input_rounding
        return change * lipschitz < slack * margin and change <= slack * Fraction(self.bound_overflow_radius)

    def largest_radius(self, size: int, execution: str) -> float:
        """Return the largest float64 radius that follows; 0 if none does."""
        slack, margin, lipschitz = self._terms(size)
        most = Fraction(self.bound_overflow_radius)
        change = min(margin / lipschitz, most) if lipschitz else most
        radius = float(
            max(Fraction(0), slack * (change - self.input_rounding) / (1 + INPUT_ROUNDOFF[execution]))
        )
        while radius > 0.0 and margin > 0 and not self.supports(radius, size, execution):
            radius = math.nextafter(radius, 0.0)  # was rounded up, or is the excluded end
        return radius if margin > 0 else 0.0

    def _terms(self, size: int) -> tuple[Fraction, Fraction, Fraction]:
        """Return 1 - (d + 4) 2⁻⁵², M - E and L + κ B."""
        slope = Fraction(self.bound_norm_ratio) * Fraction(self.bound_error_slope)
        margin = self.margin - Fraction(self.bound_error)
        return 1 - Fraction(size + 4, 2**52), margin, Fraction(self.bound_lipschitz) + slope


@dataclass(frozen=True, kw_only=True)
class PairBounds(_Bounds):
    """Bounds of format 2.

    Attributes:
        bound_margin: M.
        bound_input_rounding: T; 0 in float64.
    """

    bound_margin: float
    bound_input_rounding: float

    @property
    def margin(self) -> Fraction:
        """M, as stated."""
        return Fraction(self.bound_margin)

    @property
    def input_rounding(self) -> Fraction:
        """T, as stated."""
        return Fraction(self.bound_input_rounding)


@dataclass(frozen=True, kw_only=True)
class PairBounds1(_Bounds):
    """Bounds of format 1.

    Attributes:
        bound_lead: m, lower bound on the mixture less the rival's score, both as computed in float64.
    """

    bound_lead: float

    @property
    def margin(self) -> Fraction:
        """M, m less its error."""
        return Fraction(self.bound_lead) - Fraction(self.bound_error)

    @property
    def input_rounding(self) -> Fraction:
        """T, 0 in float64."""
        return Fraction(0)


FORMATS: dict[type[_Bounds], str] = {PairBounds: "lipcert-signed/2", PairBounds1: "lipcert-signed/1"}


@dataclass(frozen=True)
class Answer:
    """A prediction with its certificate, a function of model and input.

    Attributes:
        lipcert_version: version that computed the answer.
        execution: "float64" or "float32": label, margin and radius cover every evaluation of the model in
            that format.
        model_sha256: digest of the ONNX file, in hexadecimal.
        folded_sha256: digest of the weights that the file computes from others, as computed; the certificate
            holds for these weights. None if there are none.
        input_sha256: digest of the input: its numbers in row-major order as little-endian float64.
        input_size: d, number of coordinates of the input.
        norm: norm of the radius.
        label, label_index: name and index of the predicted class.
        runner_up, runner_up_index: name and index of the class that limits the radius, the rival's.
        margin: score of the predicted class less the next largest, rounded down.
        certified_radius: radius within which no change of the input changes the label; 0 certifies nothing.
        method: proof of the radius, one of ``METHODS``.
        bounds: bounds from which the radius follows.
    """

    lipcert_version: str
    execution: str
    model_sha256: str
    folded_sha256: str | None
    input_sha256: str
    input_size: int
    norm: Norm
    label: str
    label_index: int
    runner_up: str
    runner_up_index: int
    margin: float
    certified_radius: float
    method: str
    bounds: PairBounds | PairBounds1


@dataclass(frozen=True)
class SignedCertificate:
    """An answer with its issuer.

    Attributes:
        issuer: name of the signing service (``iss``).
        issued: time in seconds since 1970 (``iat``).
        identity: unique identifier of the certificate (``jti``).
        answer: the answer.
    """

    issuer: str
    issued: int
    identity: str
    answer: Answer

    def to_json(self) -> bytes:
        """Return the payload; floats are written so that reading gives the same floats."""
        members = {"iss": self.issuer, "iat": self.issued, "jti": self.identity}
        members |= {"format": FORMATS[type(self.answer.bounds)]} | asdict(self.answer)
        if isinstance(self.answer.bounds, PairBounds1):
            del members["folded_sha256"]
        return json.dumps(members, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, payload: bytes) -> SignedCertificate:
        """Return the certificate in a payload of :meth:`to_json`; anything else is refused.

        Raises:
            CertificateError: a member is missing, unknown, duplicated or of the wrong type; names it.
        """
        given = parse_object(payload)
        kinds = [kind for kind, name in FORMATS.items() if name == given.get("format")]
        if "format" in given and not kinds:
            known = " and ".join(f"'{name}'" for name in FORMATS.values())
            raise CertificateError(f"is {shown(given['format'])}; known formats are {known}", field="format")
        members = read_members(given, _readers(*(kinds or [PairBounds])), "")
        del members["format"]
        members.setdefault("folded_sha256", None)
        issuer, issued, identity = (members.pop(name) for name in ("iss", "iat", "jti"))
        return cls(issuer, issued, identity, Answer(**members))


def _one_of(*accepted: str) -> Reader:
    def read(value: Any, field: str) -> str:
        if value not in accepted:
            raise CertificateError(f"is {shown(value)}; must be {' or '.join(accepted)}", field=field)
        return str(value)

    return read


def _readers(kind: type[_Bounds]) -> dict[str, Reader]:
    special: dict[str, Reader] = {"mixture": list_of(share), "bound_lead": number, "bound_margin": number}
    executions = ("float64",) if kind is PairBounds1 else tuple(INPUT_ROUNDOFF)

    def bounds(value: Any, field: str) -> _Bounds:
        return kind(**read_members(value, readers_of(kind, special), f"{field}."))

    readers: dict[str, Reader] = {"iss": text, "iat": integer(0, 2**53), "jti": text, "format": text}
    readers |= readers_of(
        Answer,
        {
            "execution": _one_of(*executions),
            "model_sha256": sha256,
            "folded_sha256": lambda value, field: None if value is None else sha256(value, field),
            "input_sha256": sha256,
            "method": _one_of(*METHODS),
            "bounds": bounds,
        },
    )
    if kind is PairBounds1:
        del readers["folded_sha256"]
    return readers
