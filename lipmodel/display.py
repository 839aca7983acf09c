"""Round numbers for people: certified values down, bounds up, measured values to nearest.

A certified value with fewer digits must still be certified, and a bound must still be a bound.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

DIGITS = 6


def rounded_down(value: float, digits: int = DIGITS) -> str:
    """Return a certified value to that many significant digits, never above the value."""
    return _rounded(value, digits, ROUND_FLOOR)


def rounded_up(value: float, digits: int = DIGITS) -> str:
    """Return an upper bound to that many significant digits, never below the value."""
    return _rounded(value, digits, ROUND_CEILING)


def rounded(value: float, digits: int = DIGITS) -> str:
    """Return a measured value, rounded to nearest."""
    return _rounded(value, digits, ROUND_HALF_EVEN)


def certified_radius(radius: float, digits: int = DIGITS) -> str:
    """Return a certified radius, rounded down; a radius of 0 is marked as an abstention."""
    return rounded_down(radius, digits) if radius else "0 (abstains)"


def percent(share: float, digits: int = 2) -> str:
    """Return a measured share as a percentage, rounded to nearest."""
    return f"{share:.{digits}%}"


def certified_percent(share: float, digits: int = 2) -> str:
    """Return a certified share as a percentage, rounded down.

    A share is a quotient of two counts. Its shortest decimal is rounded, so that 29 of 100 reads 29.00%,
    though the float nearest to 0.29 lies below it.
    """
    unit = Decimal(1).scaleb(-digits)
    return f"{(100 * Decimal(repr(float(share)))).quantize(unit, ROUND_FLOOR)}%"


def _rounded(value: float, digits: int, rounding: str) -> str:
    return str(Context(prec=digits, rounding=rounding).create_decimal(Decimal(value)) if value else 0)
