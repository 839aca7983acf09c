"""Numbers as people read them."""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_UP, Context, Decimal


def rounded_down(radius: float, digits: int = 6, zero: str = "0 (abstains)") -> str:
    """A radius with fewer digits is still a promise only if the digits were cut downwards."""
    if not radius:
        return zero
    return str(Context(prec=digits, rounding=ROUND_DOWN).create_decimal(Decimal(radius)))


def rounded_up(bound: float, digits: int = 6) -> str:
    """Return a bound with fewer digits, which is a bound still: the digits are cut upwards."""
    return str(Context(prec=digits, rounding=ROUND_UP).create_decimal(Decimal(bound)))
