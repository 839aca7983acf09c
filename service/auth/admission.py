"""Authentication, scopes and rate limits of every request, in pure ASGI; some microseconds a request."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

from starlette.types import ASGIApp, Receive, Scope, Send

from service.auth.authenticator import Authenticator, Caller, unauthenticated
from service.auth.origins import AllowedHosts
from service.auth.rate_limits import RateLimits
from service.auth.scopes import RequiredScopes, required_scopes
from service.problems import Problem, ProblemKind
from service.wire import HEADERS, Header, Headers

CALLER = "lipcert.caller"
"""Key of the caller's identity in a request's ASGI scope."""


class Admission:
    """Decides which requests may pass, and counts those of each caller that are in flight.

    Attributes:
        limits: per key or token, or per client address where no credentials are required; None without
            limits.

    Args:
        authenticator: verifies credentials.
        origins: accepted ``Host`` and ``Origin`` headers where no credentials are required.
        limits: per caller.
        max_header_bytes: limit on the names and values of one request's headers together.
    """

    def __init__(
        self, authenticator: Authenticator, origins: AllowedHosts, limits: RateLimits, max_header_bytes: int
    ) -> None:
        self._authenticator, self._origins, self._max_header_bytes = authenticator, origins, max_header_bytes
        self.limits = limits if limits.any else None

    async def admit(self, scope: Scope) -> str | None:
        """Return the identity of a request's caller; None for a public route.

        The request counts as in flight until :meth:`leave`.

        Raises:
            Problem: 401, 403, 429 or 431.
        """
        self._check_size(scope["headers"])
        identity = await self.identify(scope)
        if identity is not None and self.limits is not None:
            self.limits.enter(identity)
        return identity

    async def identify(self, scope: Scope) -> str | None:
        """Return the identity of a caller that may make the request now; None for a public route.

        Raises:
            Problem: 401 or 403.
        """
        scopes = required_scopes(scope["method"], scope["path"])
        if scopes is None:
            return None
        caller = None
        if self._authenticator.required:
            credential = _credential(scope["headers"])
            caller = self._authenticator.known(credential) or await self._authenticator.identify(credential)
        return self._admit(caller, scopes, scope["method"], scope[HEADERS], scope.get("client"))

    def try_admit(
        self,
        scopes: RequiredScopes,
        raw: Collection[Header],
        headers: Headers,
        client: tuple[str, int] | None,
    ) -> str | None:
        """Return the identity of a POST request's caller, counted as by :meth:`admit`.

        Returns None where :meth:`admit` has to decide: the credential is yet to be verified, the request is
        to be refused, or it counts against the limits of an address, which may be that of a proxy.

        Args:
            scopes: of which the caller needs one.
            raw: headers in the order sent.
            headers: by name.
            client: address and port.
        """
        try:
            self._check_size(raw)
            required = self._authenticator.required
            caller = self._authenticator.known(_credential(raw)) if required else None
            if caller is None and (required or self.limits is not None):
                return None
            identity = self._admit(caller, scopes, "POST", headers, client)
            if self.limits is not None:
                self.limits.enter(identity)
        except Problem:
            return None
        return identity

    def leave(self, identity: str | None) -> None:
        """Count an admitted request as ended."""
        if identity is not None and self.limits is not None:
            self.limits.leave(identity)

    def _admit(
        self,
        caller: Caller | None,
        scopes: RequiredScopes,
        method: str,
        headers: Headers,
        client: tuple[str, int] | None,
    ) -> str:
        """Return the identity of a verified caller, or of an address where no credentials are required."""
        if caller is None:
            self._origins.check(method, headers)
            return f"address:{client[0] if client else ''}"
        if caller.scopes.isdisjoint(scopes):
            wanted, listed = " or ".join(f"'{scope}'" for scope in sorted(scopes)), " ".join(sorted(scopes))
            challenge = f'Bearer realm="lipserve", error="insufficient_scope", scope="{listed}"'
            detail = f"this request requires the scope {wanted}, which the credential lacks"
            raise Problem(ProblemKind.FORBIDDEN, detail, headers={"WWW-Authenticate": challenge})
        return caller.identity

    def _check_size(self, headers: Collection[Header]) -> None:
        if sum(map(len, chain.from_iterable(headers))) > self._max_header_bytes:
            detail = f"the headers exceed the limit of {self._max_header_bytes} bytes"
            raise Problem(ProblemKind.HEADERS_TOO_LARGE, detail)


class AdmissionMiddleware:
    """Passes admitted requests on to the application inside; answers others with 401, 403, 429 or 431."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app, self._admission = app, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; the application's lifespan passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            identity = await self._admission.admit(scope)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        scope[CALLER] = identity
        try:
            await self._app(scope, receive, send)
        finally:
            self._admission.leave(identity)


def _credential(headers: Collection[Header]) -> bytes:
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise unauthenticated("no credentials were sent; send 'Authorization: Bearer KEY'")
    if len(values) > 1 or values[0][:7].lower() != b"bearer ":
        detail = "send exactly one header 'Authorization: Bearer KEY'"
        raise unauthenticated(detail, error="invalid_request")
    return values[0][7:]
