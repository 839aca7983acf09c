"""The short way to the routes that are asked most often.

The framework's own way to a route costs more than the prediction of a small model. The routes are
declared there too, for what describes and checks them, and answer the same; a request for one of them
only need not go that way.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.context import Service
from service.api.infer import answer_infer
from service.api.predict import answer_predict
from service.errors import problem_of
from service.registry import Model

Answer = Callable[[Request, Service, Model], Awaitable[Response]]

PATH = re.compile(r"/(v1|v2)/models/([^/]+)(?:/versions/([^/]+))?/(predict|infer)")
ANSWERS: dict[tuple[str, str], Answer] = {("v1", "predict"): answer_predict, ("v2", "infer"): answer_infer}


class HotRoutes:
    """Answers predict and infer requests; passes all others on.

    Args:
        app: that answers the others.
        service: what there is to answer with.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        found = (
            PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        )
        answer = ANSWERS.get((found[1], found[4])) if found else None
        if found is None or answer is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = ROUTES[found[1], found[3] is not None]
        request = Request(scope, receive)
        try:
            model = self._service.registry.find(found[2], found[3])
            response = await answer(request, self._service, model)
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                raise
            response = problem.response()
        await response(scope, receive, send)


ROUTES = {
    (protocol, versioned): SimpleNamespace(
        path=f"/{protocol}/models/{{name}}" + "/versions/{version}" * versioned + f"/{answer}"
    )
    for protocol, answer in ANSWERS
    for versioned in (False, True)
}
"""What tells the layers outside which route it was, as the framework's own do."""
