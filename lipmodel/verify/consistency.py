"""Check of a certificate's statements against one another: in rational numbers, without the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from lipmodel.certificates.format import Certificate, Rival, digest
from lipmodel.norms import Norm
from lipmodel.threat import Threat

ROUNDED_DOWN = Fraction(1, 2**50)
"""Maximum relative amount by which a margin may lie below the exact difference of the scores stated."""
LARGEST = Fraction(2**1024 - 2**971)
"""The largest float64."""
SAME = Fraction(1, 2**40)
"""Relative slack of the runner-up's radius above the smallest: rounding decides between equals."""


@dataclass(frozen=True)
class Check:
    """Check of one statement of a certificate.

    Attributes:
        name: name of the statement.
        reason: reason of failure; empty where the statement is proved.
    """

    name: str
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Return whether the statement is proved."""
        return not self.reason


def check_consistency(certificate: Certificate) -> list[Check]:
    """Return checks of the statements that need no model."""
    return [
        Check("digest of the input", _input_digest(certificate)),
        Check("size of the input", _input_size(certificate)),
        Check("label", _label(certificate)),
        Check("mixtures", _mixtures(certificate)),
        Check("margin", _margin(certificate)),
        Check("runner-up", _runner_up(certificate)),
        Check("radius from the stated bounds", _radius(certificate)),
    ]


def float_slack(size: int, threat: Threat) -> Fraction:
    """Return 1 - (d + 4) 2⁻⁵²: a distance computed in float64 may fall short by this factor.

    Where numbers are divided by a scale first, 1 - (d + 6) 2⁻⁵².
    """
    return 1 - Fraction(size + (4 if threat.scale is None else 6), 2**52)


def nearest_float(value: Fraction | float) -> float:
    """Return the nearest float64, for messages; an infinity beyond the largest."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def answered_score(certificate: Certificate) -> int:
    """Return the index of the largest raw score that a class owns, the first of equals."""
    owned = [i for i, owner in enumerate(certificate.owners) if owner >= 0]
    return max(owned, key=lambda i: certificate.scores[i], default=0)


def _input_digest(certificate: Certificate) -> str:
    found = digest(certificate.input)
    return "" if found == certificate.input_sha256 else f"states {certificate.input_sha256}, it is {found}"


def _input_size(certificate: Certificate) -> str:
    """Check ρ >= ‖x‖_q, by squares in l2, κ >= ‖s∘u‖_q / ‖u‖_p, and the number of scales."""
    if certificate.scale is not None and len(certificate.scale) != len(certificate.input):
        return f"has {len(certificate.input)} numbers; the scale has {len(certificate.scale)}"
    values = [abs(Fraction(v)) for v in certificate.input]
    stated = Fraction(certificate.bound_input_norm)
    if certificate.error_norm is Norm.TWO:
        bounded = stated**2 >= sum(v * v for v in values)
    else:
        bounded = stated >= (sum(values) if certificate.error_norm is Norm.ONE else max(values))
    if not bounded:
        return f"its l{certificate.error_norm} norm is above the {certificate.bound_input_norm!r} stated"
    if Fraction(certificate.bound_norm_ratio) ** 2 < _square_of_ratio(certificate):
        return (
            f"l{certificate.error_norm} may be more than the {certificate.bound_norm_ratio!r} times "
            f"l{certificate.norm} stated"
        )
    return ""


def _square_of_ratio(certificate: Certificate) -> Fraction:
    """Return the square of sup ‖s∘u‖_q / ‖u‖_p: max s for q >= p, else ‖s‖_e, 1/e = 1/q - 1/p (Hölder)."""
    scale = [Fraction(s) for s in certificate.scale or (1.0,) * len(certificate.input)]
    order = [Norm.INF, Norm.TWO, Norm.ONE]
    match max(0, order.index(certificate.error_norm) - order.index(certificate.norm)):
        case 0:
            return max(scale) ** 2
        case 1:
            return sum((s * s for s in scale), Fraction(0))
        case _:
            return sum(scale, Fraction(0)) ** 2


def _label(certificate: Certificate) -> str:
    label, owners = certificate.label_index, certificate.owners
    best = answered_score(certificate)
    if owners[best] != label:
        return f"states class {label}; the largest of the scores stated is of class {owners[best]}"
    rivals = [i for i, owner in enumerate(owners) if owner not in (-1, label)]
    if [rival.score for rival in certificate.rivals] != rivals:
        return "its rivals are not the scores of the other classes, each once and in order"
    return ""


def _mixtures(certificate: Certificate) -> str:
    """Check that weights are > 0, of different scores of the answered class, with the sum 1."""
    for rival in certificate.rivals:
        shares = rival.mixture
        if any(certificate.owners[share.score] != certificate.label_index for share in shares):
            return f"a score that stands against rival {rival.score} is not of the answered class"
        if len({share.score for share in shares}) < len(shares) or not all(s.weight > 0.0 for s in shares):
            return f"a weight against rival {rival.score} is 0, or its score is named twice"
        if sum(Fraction(share.weight) for share in shares) != 1:
            return f"the weights against rival {rival.score} do not add up to 1"
    return ""


def mixed(values: Sequence[float] | Sequence[Fraction], rival: Rival) -> Fraction:
    """Return Σ λ_i v_i over the scores i of a rival's mixture."""
    return sum((Fraction(s.weight) * Fraction(values[s.score]) for s in rival.mixture), Fraction(0))


def _margin(certificate: Certificate) -> str:
    scores, margin = certificate.scores, Fraction(certificate.margin)
    best = Fraction(scores[answered_score(certificate)])
    exact = min(best - Fraction(scores[rival.score]) for rival in certificate.rivals)
    # Down to the next number below, which for a difference of 0 or a subnormal one is 0 or nearly so.
    if margin <= exact <= margin * (1 + ROUNDED_DOWN) + Fraction(1, 2**1000):
        return ""
    return f"states {certificate.margin!r}; the difference of the scores stated is {nearest_float(exact)!r}"


def _rival_margin(certificate: Certificate, rival: Rival) -> Fraction:
    return mixed(certificate.scores, rival) - Fraction(certificate.scores[rival.score])


def _rival_radius(certificate: Certificate, rival: Rival) -> Fraction | float:
    """Return (m - 2E) / (L + κB), or that of the box if larger: within it this rival cannot win."""
    slope = Fraction(certificate.bound_norm_ratio) * Fraction(rival.bound_error_slope)
    growth = Fraction(rival.bound_lipschitz) + slope
    slack = _rival_margin(certificate, rival) - 2 * Fraction(rival.bound_error)
    radius = slack / growth if growth else math.inf if slack > 0 else -math.inf
    if rival.box is not None:
        radius = max(radius, Fraction(rival.box.bound_radius))
    return min(radius, LARGEST)  # beyond it all are equal


def _runner_up(certificate: Certificate) -> str:
    measure = _rival_radius if certificate.certified_radius > 0.0 else _rival_margin
    owners, second = certificate.owners, certificate.runner_up_index
    nearest = min(measure(certificate, rival) for rival in certificate.rivals)
    own = [measure(certificate, r) for r in certificate.rivals if owners[r.score] == second]
    if own and min(own) <= nearest * (1 + SAME):
        return ""
    return f"class {second} is not the one that the radius is least against"


def _radius(certificate: Certificate) -> str:
    radius = certificate.certified_radius
    if radius == 0.0:
        return ""  # nothing is promised
    least = certificate.threat.min_distance
    if radius <= least:  # and the promise is of distances computed in float64 too
        return f"states {radius!r}; distances in l{certificate.norm} are computed reliably above {least!r}"
    slack = float_slack(len(certificate.input), certificate.threat)
    bound = min(_rival_radius(certificate, r) for r in certificate.rivals) * slack
    # <, not <=: the ball is closed, and on its boundary the scores may be equal
    if Fraction(radius) < bound:
        return ""
    return f"states {radius!r}; the bounds stated give no more than {nearest_float(bound)!r}"
