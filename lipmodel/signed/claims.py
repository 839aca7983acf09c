"""What a signed certificate states.

The radius follows from the bounds stated of the rival j that sets it, with d the size of the input:

    (1 + u) r / (1 - (d + 4) 2⁻⁵²) + T < (M - E) / (L + κ B),        <= R

with r = ``certified_radius``, M = ``bound_margin``, E = ``bound_error``, B = ``bound_error_slope``,
L = ``bound_lipschitz``, κ = ``bound_norm_ratio``, T = ``bound_input_rounding``, R = ``bound_overflow_radius``
(``radius.py``, ``mixtures.py``); u = 2⁻²⁴ where the execution is float32, else 0. Where ``method`` is
"local", the radius is larger than that: it was proved by bounds local to a ball, which take the model.

Format 1 stated m = ``bound_lead`` of the scores as computed, so that M = m - E, and spoke of float64 alone.
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

METHODS = ("lipschitz", "mixture", "local")
INPUT_ROUNDOFF = {"float64": Fraction(0), "float32": Fraction(1, 2**24)}
"""How far, relatively, each execution rounds the float64 numbers that it is given, u."""


@dataclass(frozen=True, kw_only=True)
class _Bounds:
    """The bounds that both formats state of the rival that sets the radius.

    Attributes:
        rival: index of a raw score of another class.
        mixture: the scores of the answered class that are compared with it; weights add up to 1.
        bound_lipschitz: L, how fast the mixture less the rival's score may move.
        bound_error: E, how far an execution's value of that may be from the exact one.
        bound_error_slope: B, how much E grows per unit of the input's size.
        bound_norm_ratio: κ, of the norm that this size is measured in to the radius's.
        bound_overflow_radius: R, within which no intermediate result overflows.
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
        """M, at most the exact mixture less the exact score of the rival."""
        raise NotImplementedError

    @property
    def input_rounding(self) -> Fraction:
        """T, how much farther a change may be once the execution has rounded both inputs, beside u of it."""
        raise NotImplementedError

    def supports(self, radius: float, size: int, execution: str) -> bool:
        """Whether the radius follows, exactly, for inputs of that many numbers."""
        slack, room, speed = self._terms(size)
        reach = (1 + INPUT_ROUNDOFF[execution]) * Fraction(radius) + slack * self.input_rounding
        return reach * speed < slack * room and reach <= slack * Fraction(self.bound_overflow_radius)

    def largest_radius(self, size: int, execution: str) -> float:
        """The largest float64 radius that follows; 0 where none does."""
        slack, room, speed = self._terms(size)
        most = Fraction(self.bound_overflow_radius)
        reach = min(room / speed, most) if speed else most
        radius = float(
            max(Fraction(0), slack * (reach - self.input_rounding) / (1 + INPUT_ROUNDOFF[execution]))
        )
        while radius > 0.0 and room > 0 and not self.supports(radius, size, execution):
            radius = math.nextafter(radius, 0.0)  # was rounded up, or is the end itself
        return radius if room > 0 else 0.0

    def _terms(self, size: int) -> tuple[Fraction, Fraction, Fraction]:
        """1 - (d + 4) 2⁻⁵², M - E and L + κ B."""
        slope = Fraction(self.bound_norm_ratio) * Fraction(self.bound_error_slope)
        room = self.margin - Fraction(self.bound_error)
        return 1 - Fraction(size + 4, 2**52), room, Fraction(self.bound_lipschitz) + slope


@dataclass(frozen=True, kw_only=True)
class PairBounds(_Bounds):
    """The bounds that a radius follows from.

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
    """The same of format 1.

    Attributes:
        bound_lead: m, at most the mixture less the rival's score, both as computed in float64.
    """

    bound_lead: float

    @property
    def margin(self) -> Fraction:
        """M, the lead less its error."""
        return Fraction(self.bound_lead) - Fraction(self.bound_error)

    @property
    def input_rounding(self) -> Fraction:
        """T, nothing in float64."""
        return Fraction(0)


FORMATS: dict[type[_Bounds], str] = {PairBounds: "lipcert-signed/2", PairBounds1: "lipcert-signed/1"}


@dataclass(frozen=True)
class Answer:
    """One answer, as model and input determine it.

    Attributes:
        lipcert_version: what computed it.
        execution: "float64" or "float32", what label, margin and radius speak of: every evaluation of the
            model in that format.
        model_sha256: digest of the ONNX file, in hexadecimal.
        folded_sha256: digest of the weights that the file computes from others, as they were computed: what
            is certified holds of these; None where there are none.
        input_sha256: digest of the input: its numbers in row-major order as little-endian float64.
        input_size: how many there are, d.
        norm: the norm of the radius.
        label, label_index: name and number of the answered class.
        runner_up, runner_up_index: the same of the class that limits the radius, that of the bounds' rival.
        margin: the score of the answered class less the next, rounded down.
        certified_radius: no change of the input within it changes the label; 0 certifies nothing.
        method: what the radius comes from, one of ``METHODS``.
        bounds: the bounds that it follows from.
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
    """An answer, and who gave it.

    Attributes:
        issuer: the name that the signing service goes by (``iss``).
        issued: seconds since 1970 (``iat``).
        identity: of this certificate, unlike any other's (``jti``).
        answer: what was answered.
    """

    issuer: str
    issued: int
    identity: str
    answer: Answer

    def to_json(self) -> bytes:
        """The payload; floats are written so that reading them gives the same float."""
        members = {"iss": self.issuer, "iat": self.issued, "jti": self.identity}
        members |= {"format": FORMATS[type(self.answer.bounds)]} | asdict(self.answer)
        if isinstance(self.answer.bounds, PairBounds1):
            del members["folded_sha256"]
        return json.dumps(members, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, payload: bytes) -> SignedCertificate:
        """Reads what :meth:`to_json` wrote, and nothing else.

        Raises:
            CertificateError: names the member that is missing, unknown, given twice or not of its kind.
        """
        given = parse_object(payload)
        kinds = [kind for kind, name in FORMATS.items() if name == given.get("format")]
        if "format" in given and not kinds:
            known = " and ".join(f"'{name}'" for name in FORMATS.values())
            raise CertificateError(f"{shown(given['format'])} is not known; {known} are", field="format")
        members = read_members(given, _readers(*(kinds or [PairBounds])), "")
        del members["format"]
        members.setdefault("folded_sha256", None)
        issuer, issued, identity = (members.pop(name) for name in ("iss", "iat", "jti"))
        return cls(issuer, issued, identity, Answer(**members))


def _one_of(*accepted: str) -> Reader:
    def read(value: Any, field: str) -> str:
        if value not in accepted:
            raise CertificateError(f"is {shown(value)}; accepted is {' or '.join(accepted)}", field=field)
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
