"""The layer that every request passes: who calls, may they, how often.

Pure ASGI, some microseconds a request.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain

from starlette.types import ASGIApp, Receive, Scope, Send

from service.auth.authenticator import Access, Caller, unauthenticated
from service.auth.origins import Origins
from service.auth.rate_limits import Limits
from service.auth.scopes import Needed, needed
from service.problems import Problem, ProblemKind
from service.wire import HEADERS, Header

CALLER = "lipcert.caller"
"""Where in a request's scope the identity of its caller is left."""


class Admission:
    """Who may make which requests, and how many.

    Attributes:
        limits: per key or token; where nobody need say who they are, per address; None without any.

    Args:
        access: verifies credentials.
        origins: of requests where no credential is asked for.
        limits: per caller.
        header_bytes: most in the names and values of the headers of one request.
    """

    def __init__(self, access: Access, origins: Origins, limits: Limits, header_bytes: int) -> None:
        self._access, self._origins, self._header_bytes = access, origins, header_bytes
        self.limits = limits if limits.any else None

    async def admit(self, scope: Scope) -> str | None:
        """The identity of a request's caller, whose request is counted until :meth:`leave`; None needs none.

        Raises:
            Problem: 401, 403, 429 or 431.
        """
        self._check_size(scope["headers"])
        identity = await self.identify(scope)
        if identity is not None and self.limits is not None:
            self.limits.enter(identity)
        return identity

    async def identify(self, scope: Scope) -> str | None:
        """Return the identity of a request's caller, who may make it as of now; None where none is needed.

        Raises:
            Problem: 401 or 403.
        """
        asked = needed(scope["method"], scope["path"])
        if asked is None:
            return None
        if self._access.required:
            credential = _credential(scope["headers"])
            caller = self._access.known(credential) or await self._access.identify(credential)
            _check_scopes(caller, asked)
            return caller.identity
        self._origins.check(scope["method"], scope[HEADERS])
        return address_identity(scope.get("client"))

    def at_once(self, asked: Needed, headers: Collection[Header], found: Mapping[bytes, bytes]) -> str | None:
        """The same of a POST that asks for those scopes, where the caller is known by a credential.

        None where who it is must be found out, or it is refused: :meth:`admit` does, and says why.
        """
        try:
            self._check_size(headers)
            if not self._access.required:
                if self.limits is not None:
                    return None
                self._origins.check("POST", found)
                return ""
            caller = self._access.known(_credential(headers))
            if caller is None:
                return None
            _check_scopes(caller, asked)
            if self.limits is not None:
                self.limits.enter(caller.identity)
        except Problem:
            return None
        return caller.identity

    def leave(self, identity: str | None) -> None:
        """A request that was admitted has ended."""
        if identity is not None and self.limits is not None:
            self.limits.leave(identity)

    def _check_size(self, headers: Collection[Header]) -> None:
        if sum(map(len, chain.from_iterable(headers))) > self._header_bytes:
            detail = f"the headers are over the limit of {self._header_bytes} bytes"
            raise Problem(ProblemKind.HEADERS_TOO_LARGE, detail)


class Guard:
    """Lets through what may pass; answers the rest with 401, 403, 429 or 431.

    Args:
        app: what is guarded.
        admission: says what may.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app, self._admission = app, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's start and end, which pass."""
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


def address_identity(client: tuple[str, int] | None) -> str:
    """Return the identity of a caller who need give no credential, from address and port."""
    return f"address:{client[0] if client else ''}"


def _credential(headers: Collection[Header]) -> bytes:
    given = [value for name, value in headers if name == b"authorization"]
    if not given:
        raise unauthenticated("no credential is given; send 'Authorization: Bearer KEY'")
    if len(given) > 1 or given[0][:7].lower() != b"bearer ":
        detail = "one header 'Authorization: Bearer KEY' is accepted"
        raise unauthenticated(detail, error="invalid_request")
    return given[0][7:]


def _check_scopes(caller: Caller, asked: Needed) -> None:
    if caller.scopes.isdisjoint(asked):
        wanted = " or ".join(f"'{scope}'" for scope in sorted(asked))
        scopes = " ".join(sorted(asked))
        challenge = f'Bearer realm="lipserve", error="insufficient_scope", scope="{scopes}"'
        detail = f"this takes the scope {wanted}, which the credential does not have"
        raise Problem(ProblemKind.FORBIDDEN, detail, headers={"WWW-Authenticate": challenge})
