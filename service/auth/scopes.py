"""Scopes of keys and tokens, and the table of the scopes that each route requires."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum


class Scope(StrEnum):
    """A permission of a caller; ``admin`` includes all others."""

    PREDICT = "predict"
    AUDIT = "audit"
    METRICS = "metrics"
    ADMIN = "admin"


RequiredScopes = frozenset[Scope]
"""Scopes of which a request needs one; ``admin`` always suffices."""

PUBLIC: RequiredScopes | None = None
PREDICT: RequiredScopes = frozenset({Scope.PREDICT})
AUDIT: RequiredScopes = frozenset({Scope.AUDIT})
EITHER: RequiredScopes = PREDICT | AUDIT
METRICS: RequiredScopes = frozenset({Scope.METRICS})
ADMIN: RequiredScopes = frozenset({Scope.ADMIN})

ROUTES: Mapping[tuple[str, str], RequiredScopes | None] = {
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/v2/health/live"): PUBLIC,
    ("GET", "/v2/health/ready"): PUBLIC,
    ("GET", "/.well-known/jwks.json"): PUBLIC,
    ("GET", "/docs"): PUBLIC,
    ("GET", "/"): PUBLIC,
    ("GET", "/web/{file}"): PUBLIC,
    ("GET", "/web/{folder}/{file}"): PUBLIC,
    ("GET", "/web/{folder}/{inner}/{file}"): PUBLIC,
    ("GET", "/openapi.json"): PUBLIC,
    ("GET", "/problems/{kind}"): PUBLIC,
    ("GET", "/metrics"): METRICS,
    ("GET", "/v1/models"): EITHER,
    ("GET", "/v1/models/{name}"): EITHER,
    ("PUT", "/v1/models/{name}"): ADMIN,
    ("DELETE", "/v1/models/{name}"): ADMIN,
    ("GET", "/v1/models/{name}/versions/{version}"): EITHER,
    ("DELETE", "/v1/models/{name}/versions/{version}"): ADMIN,
    ("PUT", "/v1/models/{name}/labels/{label}"): ADMIN,
    ("DELETE", "/v1/models/{name}/labels/{label}"): ADMIN,
    ("POST", "/v1/models/{name}/predict"): PREDICT,
    ("POST", "/v1/models/{name}/versions/{version}/predict"): PREDICT,
    ("GET", "/v1/models/{name}/samples"): EITHER,
    ("GET", "/v1/models/{name}/versions/{version}/samples"): EITHER,
    ("POST", "/v1/models/{name}/attacks"): AUDIT,
    ("POST", "/v1/models/{name}/versions/{version}/attacks"): AUDIT,
    ("POST", "/v1/models/{name}/audits"): AUDIT,
    ("POST", "/v1/models/{name}/versions/{version}/audits"): AUDIT,
    ("POST", "/v1/models/{name}/evaluations"): AUDIT,
    ("POST", "/v1/models/{name}/versions/{version}/evaluations"): AUDIT,
    ("GET", "/v1/models/{name}/drift"): AUDIT,
    ("GET", "/v1/models/{name}/versions/{version}/drift"): AUDIT,
    ("POST", "/v1/certificates/check"): EITHER,
    ("GET", "/v1/audits"): AUDIT,
    ("GET", "/v1/audits/{job_id}"): AUDIT,
    ("GET", "/v1/audits/{job_id}/events"): AUDIT,
    ("GET", "/v1/audits/{job_id}/report/{file}"): AUDIT,
    ("DELETE", "/v1/audits/{job_id}"): AUDIT,
    ("GET", "/v1/evaluations"): AUDIT,
    ("GET", "/v1/evaluations/{job_id}"): AUDIT,
    ("GET", "/v1/evaluations/{job_id}/events"): AUDIT,
    ("DELETE", "/v1/evaluations/{job_id}"): AUDIT,
    ("GET", "/v1/evaluations/{job_id}/report/{file}"): AUDIT,
    ("GET", "/v2"): EITHER,
    ("GET", "/v2/models/{name}"): EITHER,
    ("GET", "/v2/models/{name}/ready"): EITHER,
    ("GET", "/v2/models/{name}/versions/{version}"): EITHER,
    ("GET", "/v2/models/{name}/versions/{version}/ready"): EITHER,
    ("POST", "/v2/models/{name}/infer"): PREDICT,
    ("POST", "/v2/models/{name}/versions/{version}/infer"): PREDICT,
    ("POST", "/v2/repository/index"): EITHER,
    ("POST", "/v2/repository/models/{name}/load"): ADMIN,
    ("POST", "/v2/repository/models/{name}/unload"): ADMIN,
}
"""Required scopes by method and declared path of a route. A route that is not listed requires ``admin``."""

_PATTERNS = [
    (method, re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), needed)
    for (method, path), needed in ROUTES.items()
]
LONGEST_PATH = 1024
"""Maximum length of a cached path: paths are chosen by callers."""
_REMEMBERED = 4096
_known: dict[tuple[str, str], RequiredScopes | None] = {}


def required_scopes(method: str, path: str) -> RequiredScopes | None:
    """Return the scopes of which a request needs one; None if the request needs no credential.

    HEAD requires the same scopes as GET.
    """
    key = (method, path)
    try:
        return _known[key]
    except KeyError:
        pass
    route_method = "GET" if method == "HEAD" else method
    for listed, pattern, scopes in _PATTERNS:
        if listed == route_method and pattern.fullmatch(path):
            if len(_known) >= _REMEMBERED:
                _known.clear()
            if len(path) <= LONGEST_PATH:
                _known[key] = scopes
            return scopes
    return ADMIN
