"""Strict reading of JSON: each member by its reader; none missing, none unknown, none twice.

A reader takes a value and the name of its field, and returns the value read or raises
:class:`~lipmodel.errors.CertificateError`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from lipmodel.errors import CertificateError
from lipmodel.norms import Norm

MAX_BYTES = 2**28
SURROGATE = re.compile("[\ud800-\udfff]")
"""A lone surrogate, which JSON can hold and UTF-8 cannot."""
Reader = Callable[[Any, str], Any]


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parse one JSON object of at most ``MAX_BYTES``.

    Raises:
        CertificateError: the text is not a JSON object, names a member twice, or holds NaN or an infinity.
    """
    if len(text) > MAX_BYTES:
        raise CertificateError(f"is larger than {MAX_BYTES} bytes")
    try:
        members = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, too many digits, nested too deep
        reason = str(error).splitlines()[0][:120]
        raise CertificateError(f"is not JSON that can be read: {reason}") from error
    if not isinstance(members, dict):
        raise CertificateError(f"is {shown(members)}; one JSON object is accepted")
    return members


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise CertificateError("is given twice", field=next(n for n in names if names.count(n) > 1)[:40])
    if any(map(SURROGATE.search, members)):
        raise ValueError("a name in it is no text")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def read_members(members: Any, readers: dict[str, Reader], prefix: str) -> dict[str, Any]:
    """Return each member as read by its reader; none may be missing, none may be left over."""
    if not isinstance(members, dict):
        raise CertificateError(f"is {shown(members)}; an object is accepted", field=prefix.rstrip("."))
    for name in (*readers, *members):
        if name not in members:
            raise CertificateError("is missing", field=prefix + name)
        if name not in readers:
            raise CertificateError("is unknown", field=prefix + name[:40])
    return {name: read(members[name], prefix + name) for name, read in readers.items()}


def shown(value: Any) -> str:
    """Return a value as shown in a message, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def number(value: Any, field: str) -> float:
    """Read a finite float64, or an integer that is one exactly."""
    exact = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53
    if not exact and not (isinstance(value, float) and math.isfinite(value)):
        raise CertificateError(f"is {shown(value)}; a finite float64 is accepted", field=field)
    return float(value)


def bound(value: Any, field: str) -> float:
    """Read a finite float64, not below 0."""
    if number(value, field) < 0.0:
        raise CertificateError(f"is {shown(value)}, below 0", field=field)
    return float(value)


def integer(least: int, end: int = 2**31) -> Reader:
    """Return a reader of integers from ``least`` on, below ``end``."""

    def read(value: Any, field: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < end:
            raise CertificateError(f"is {shown(value)}; an integer from {least} is accepted", field=field)
        return value

    return read


def text(value: Any, field: str) -> str:
    """Read a string."""
    if not isinstance(value, str) or SURROGATE.search(value):
        raise CertificateError(f"is {shown(value)}; a string is accepted", field=field)
    return value


def sha256(value: Any, field: str) -> str:
    """Read a SHA-256 digest, in lower-case hexadecimal."""
    if len(text(value, field)) != 64 or set(value) - set("0123456789abcdef"):
        raise CertificateError(f"is {shown(value)}; 64 hexadecimal digits are accepted", field=field)
    return str(value)


def optional(read: Reader) -> Reader:
    """Return a reader of null as None, and of anything else by ``read``."""
    return lambda value, field: None if value is None else read(value, field)


def norm(value: Any, field: str) -> Norm:
    """Read the name of a norm."""
    if value not in [norm.value for norm in Norm]:
        raise CertificateError(f"is {shown(value)}; '1', '2' and 'inf' are accepted", field=field)
    return Norm(value)


def list_of(read: Reader, least: int = 1) -> Reader:
    """Return a reader of lists of at least ``least`` entries, as tuples."""

    def read_list(value: Any, field: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) < least:
            accepted = "a list of one or more" if least else "a list"
            raise CertificateError(f"is {shown(value)}; {accepted} is accepted", field=field)
        return tuple(read(entry, f"{field}[{index}]") for index, entry in enumerate(value))

    return read_list


def readers_of(kind: type, special: dict[str, Reader]) -> dict[str, Reader]:
    """Return one reader per field of a dataclass: a special one by name, else one by type."""
    by_type = {"str": text, "int": integer(0), "float": bound, "Norm": norm}
    return {f.name: special.get(f.name) or by_type[str(f.type)] for f in fields(kind)}


def object_of(kind: type, special: dict[str, Reader]) -> Reader:
    """Return a reader of objects as a dataclass, whose fields :func:`readers_of` reads."""
    readers = readers_of(kind, special)
    return lambda value, field: kind(**read_members(value, readers, f"{field}."))
