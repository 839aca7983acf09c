"""The layer that every request passes: who calls, may they, how often.

Pure ASGI, some microseconds a request.
"""

from __future__ import annotations

from itertools import chain

from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import Access, Caller, unauthenticated
from service.errors import Problem, ProblemKind
from service.limits import Limits
from service.scopes import Needed, needed

CALLER = "lipcert.caller"
"""Where in the scope of a request its caller's identity is left, for layers outside and inside."""


class Guard:
    """Lets through what may pass; answers the rest with 401, 403, 429 or 431.

    Args:
        app: what is guarded.
        access: verifies credentials.
        limits: per key or token; where nobody need say who they are, per address.
        header_bytes: most in the names and values of the headers of one request.
    """

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, header_bytes: int) -> None:
        self._app, self._access, self._header_bytes = app, access, header_bytes
        self._limits = limits if limits.any else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's start and end, which pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        identity = None
        try:
            headers = scope["headers"]
            if sum(map(len, chain.from_iterable(headers))) > self._header_bytes:
                detail = f"the headers are over the limit of {self._header_bytes} bytes"
                raise Problem(ProblemKind.HEADERS_TOO_LARGE, detail)
            asked = needed(scope["method"], scope["path"])
            if asked is not None:
                if self._access.required:
                    identity = (
                        await self._admit([v for name, v in headers if name == b"authorization"], asked)
                    ).identity
                else:
                    identity = f"address:{(scope.get('client') or ('',))[0]}"
                scope[CALLER] = identity
                if self._limits is not None:
                    self._limits.enter(identity)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if identity is not None and self._limits is not None:
                self._limits.leave(identity)

    async def _admit(self, given: list[bytes], asked: Needed) -> Caller:
        """The caller who gave these credentials, who may make a request that asks for those scopes.

        Raises:
            Problem: 401 or 403.
        """
        if not given:
            raise unauthenticated("no credential is given; send 'Authorization: Bearer KEY'")
        if len(given) > 1 or given[0][:7].lower() != b"bearer ":
            detail = "one header 'Authorization: Bearer KEY' is accepted"
            raise unauthenticated(detail, error="invalid_request")
        credential = given[0][7:]
        caller = self._access.known(credential) or await self._access.identify(credential)
        if caller.scopes.isdisjoint(asked):
            wanted = " or ".join(f"'{scope}'" for scope in sorted(asked))
            scopes = " ".join(sorted(asked))
            challenge = f'Bearer realm="lipserve", error="insufficient_scope", scope="{scopes}"'
            detail = f"this takes the scope {wanted}, which the credential does not have"
            raise Problem(ProblemKind.FORBIDDEN, detail, headers={"WWW-Authenticate": challenge})
        return caller
