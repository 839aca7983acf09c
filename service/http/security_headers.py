"""Security headers of every response, for browsers."""

from __future__ import annotations

from collections.abc import Iterable

from service.wire import Header

_SAFE: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_NAMES = frozenset(name for name, _ in _SAFE)

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the web page: scripts and styles are files of this service, none is inline."""


def safe_headers(headers: Iterable[Header]) -> list[Header]:
    """Return the headers of a response, with those security headers added that it does not set."""
    own = [name for name, _ in headers if name in _NAMES]
    return [*headers, *(_SAFE if not own else (header for header in _SAFE if header[0] not in own))]
