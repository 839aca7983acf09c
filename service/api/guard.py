"""The layer that every request passes: who calls, may they, how often; and headers that keep browsers safe.

Pure ASGI, some microseconds a request.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access import Access, Caller, unauthenticated
from service.errors import Problem, ProblemKind
from service.limits import Limits
from service.safe_headers import safe_headers
from service.scopes import Needed, needed

CALLER = "lipcert.caller"
"""Where in the scope of a request its caller's identity is left, for layers outside and inside."""


class Guard:
    """Lets through what may pass; answers the rest with 401, 403 or 429.

    Args:
        app: what is guarded.
        access: verifies credentials.
        limits: per key or token; where nobody need say who they are, per address.
    """

    def __init__(self, app: ASGIApp, access: Access, limits: Limits) -> None:
        self._app, self._access = app, access
        self._limits = limits if limits.any else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's start and end, which pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]

        async def safe_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = safe_headers(message.get("headers", ()), path)
            await send(message)

        identity = None
        try:
            asked = needed(scope["method"], path)
            if asked is not None:
                if self._access.required:
                    identity = (await self._admit(scope, asked)).identity
                else:
                    identity = f"address:{(scope.get('client') or ('',))[0]}"
                scope[CALLER] = identity
                if self._limits is not None:
                    self._limits.enter(identity)
        except Problem as problem:
            await problem.response()(scope, receive, safe_send)
            return
        try:
            await self._app(scope, receive, safe_send)
        finally:
            if identity is not None and self._limits is not None:
                self._limits.leave(identity)

    async def _admit(self, scope: Scope, asked: Needed) -> Caller:
        """The caller of a request, who may make it.

        Raises:
            Problem: 401 or 403.
        """
        credential = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                if credential is not None or value[:7].lower() != b"bearer ":
                    detail = "one header 'Authorization: Bearer KEY' is accepted"
                    raise unauthenticated(detail, error="invalid_request")
                credential = value[7:]
        if credential is None:
            raise unauthenticated("no credential is given; send 'Authorization: Bearer KEY'")
        caller = self._access.known(credential) or await self._access.identify(credential)
        if caller.scopes.isdisjoint(asked):
            wanted = " or ".join(f"'{scope}'" for scope in sorted(asked))
            scopes = " ".join(sorted(asked))
            challenge = f'Bearer realm="lipserve", error="insufficient_scope", scope="{scopes}"'
            detail = f"this takes the scope {wanted}, which the credential does not have"
            raise Problem(ProblemKind.FORBIDDEN, detail, headers={"WWW-Authenticate": challenge})
        return caller
