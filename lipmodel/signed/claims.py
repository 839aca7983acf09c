"""What a signed certificate states.

The radius follows from the bounds stated of the rival j that sets it, with d the size of the input:

    certified_radius < (1 - (d + 4) 2⁻⁵²) (m - 2 E) / (L + κ B),      certified_radius <= R

with m = ``bound_lead``, E = ``bound_error``, B = ``bound_error_slope``, L = ``bound_lipschitz``,
κ = ``bound_norm_ratio`` and R = ``bound_overflow_radius`` (``radius.py``, ``mixtures.py``). Where ``method``
is "local", the radius is larger than that: it was proved by bounds local to a ball, which take the model.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from lipmodel.certify.certificate import EXECUTION, Share, share
from lipmodel.certify.members import (
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

FORMAT = "lipcert-signed/1"
METHODS = ("lipschitz", "mixture", "local")


@dataclass(frozen=True)
class PairBounds:
    """The bounds that a radius follows from: those of the rival that sets it.

    Attributes:
        rival: index of a raw score of another class.
        mixture: the scores of the answered class that stand against it; weights add up to 1.
        bound_lead: m, at most the mixture of these scores less the rival's, as computed.
        bound_lipschitz: L, how fast that difference may move.
        bound_error: E, how far it may be from the exact one at the input.
        bound_error_slope: B, how much E grows per unit of the input's size.
        bound_norm_ratio: κ, of the norm that this size is measured in to the radius's.
        bound_overflow_radius: R, within which no intermediate result overflows.
    """

    rival: int
    mixture: tuple[Share, ...]
    bound_lead: float
    bound_lipschitz: float
    bound_error: float
    bound_error_slope: float
    bound_norm_ratio: float
    bound_overflow_radius: float

    def supports(self, radius: float, size: int) -> bool:
        """Whether the radius follows, exactly, for inputs of that many numbers."""
        room, speed = self._room_and_speed(size)
        return radius <= self.bound_overflow_radius and Fraction(radius) * speed < room

    def largest_radius(self, size: int) -> float:
        """What the radius may be at most, to the nearest number; to be shown, not to be relied on."""
        room, speed = self._room_and_speed(size)
        most = Fraction(self.bound_overflow_radius)
        return float(max(Fraction(0), min(room / speed, most) if speed else most))

    def _room_and_speed(self, size: int) -> tuple[Fraction, Fraction]:
        """(1 - (d + 4) 2⁻⁵²) (m - 2 E) and L + κ B."""
        room = Fraction(self.bound_lead) - 2 * Fraction(self.bound_error)
        slope = Fraction(self.bound_norm_ratio) * Fraction(self.bound_error_slope)
        return (1 - Fraction(size + 4, 2**52)) * room, Fraction(self.bound_lipschitz) + slope


@dataclass(frozen=True)
class Answer:
    """One answer, as model and input determine it.

    Attributes:
        lipcert_version: what computed it.
        model_sha256: digest of the ONNX file, in hexadecimal.
        input_sha256: digest of the input: its numbers in row-major order as little-endian float64.
        input_size: how many there are, d.
        norm: the norm of the radius.
        label, label_index: name and number of the answered class.
        runner_up, runner_up_index: the same of the class that limits the radius.
        margin: the score of the answered class less the next, rounded down.
        certified_radius: no change of the input within it changes the label; 0 certifies nothing.
        method: what the radius comes from, one of ``METHODS``.
        bounds: the bounds that it follows from.
    """

    lipcert_version: str
    model_sha256: str
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
    bounds: PairBounds


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
        members |= _CONSTANTS | asdict(self.answer)
        return json.dumps(members, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, payload: bytes) -> SignedCertificate:
        """Reads what :meth:`to_json` wrote, and nothing else.

        Raises:
            CertificateError: names the member that is missing, unknown, given twice or not of its kind.
        """
        members = read_members(parse_object(payload), _READERS, "")
        for name, value in _CONSTANTS.items():
            if (given := members.pop(name)) != value:
                raise CertificateError(f"{shown(given)} is not known; '{value}' is", field=name)
        issuer, issued, identity = (members.pop(name) for name in ("iss", "iat", "jti"))
        return cls(issuer, issued, identity, Answer(**members))


_CONSTANTS = {"format": FORMAT, "execution": EXECUTION}


def _method(value: Any, field: str) -> str:
    if value not in METHODS:
        raise CertificateError(f"is {shown(value)}; one of {', '.join(METHODS)} is accepted", field=field)
    return str(value)


def _bounds(value: Any, field: str) -> PairBounds:
    special: dict[str, Reader] = {"mixture": list_of(share), "bound_lead": number}
    return PairBounds(**read_members(value, readers_of(PairBounds, special), f"{field}."))


_READERS: dict[str, Reader] = {
    "iss": text,
    "iat": integer(0, 2**53),
    "jti": text,
    "format": text,
    "execution": text,
} | readers_of(
    Answer,
    {
        "model_sha256": sha256,
        "input_sha256": sha256,
        "method": _method,
        "bounds": _bounds,
    },
)
