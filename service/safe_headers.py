"""Headers of every answer that keep browsers from doing with it what was not meant."""

from __future__ import annotations

from collections.abc import Iterable

Header = tuple[bytes, bytes]

_POLICY = b"content-security-policy"
_SAFE: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (_POLICY, b"default-src 'none'; frame-ancestors 'none'"),
)
_NAMES = frozenset(name for name, _ in _SAFE)
_CDN = "https://cdn.jsdelivr.net"
_PAGE = (
    f"default-src 'none'; script-src {_CDN} 'unsafe-inline'; style-src {_CDN} 'unsafe-inline' "
    "https://fonts.googleapis.com; font-src https://fonts.gstatic.com; img-src https://fastapi.tiangolo.com "
    "https://cdn.redoc.ly data:; connect-src 'self'; worker-src blob:; frame-ancestors 'none'"
).encode()
_PAGES = {"/docs", "/docs/oauth2-redirect", "/redoc"}
"""The pages of the framework, which load their scripts from a content delivery network."""


def safe_headers(headers: Iterable[Header], path: str) -> list[Header]:
    """The headers of an answer with those added that it does not set itself."""
    if path in _PAGES:
        headers = [*headers, (_POLICY, _PAGE)]
    own = [name for name, _ in headers if name in _NAMES]
    return [*headers, *(_SAFE if not own else (header for header in _SAFE if header[0] not in own))]
