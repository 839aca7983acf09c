"""Numbers as people read them."""

from __future__ import annotations

from decimal import ROUND_DOWN, Context, Decimal


def rounded_down(radius: float, digits: int = 6, zero: str = "0 (abstains)") -> str:
    """A radius with fewer digits is still a promise only if the digits were cut downwards."""
    if not radius:
        return zero
    return str(Context(prec=digits, rounding=ROUND_DOWN).create_decimal(Decimal(radius)))
