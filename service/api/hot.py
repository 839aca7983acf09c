"""The short way to the routes that are asked most often.

The framework's own way to a route costs more than the prediction of a small model. The routes are
declared there too, for what describes and checks them, and answer the same; a request for one of them
only need not go that way.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import NamedTuple

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


class Route(NamedTuple):
    """What tells the layers outside which route it was, as the framework's own do."""

    path: str


class Way(NamedTuple):
    """Where a path leads."""

    answer: Answer
    name: str
    version: str | None
    route: Route


@lru_cache(maxsize=1024)
def way_of(path: str) -> Way | None:
    """Where the short way leads; None where a path is not one of those asked most often."""
    found = PATH.fullmatch(path)
    if found is None or (found[1], found[4]) not in ANSWERS:
        return None
    protocol, name, version, verb = found.groups()
    template = f"/{protocol}/models/{{name}}" + "/versions/{version}" * (version is not None) + f"/{verb}"
    return Way(ANSWERS[protocol, verb], name, version, Route(template))


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
        way = way_of(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if way is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = way.route
        try:
            model = self._service.registry.find(way.name, way.version)
            response = await way.answer(Request(scope, receive), self._service, model)
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                raise
            response = problem.response()
        await response(scope, receive, send)
