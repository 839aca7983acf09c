"""The short way to the routes that are asked most often: from the connection to the model and back.

The layers of the application and the framework's own way to a route cost more than the prediction of a small
model. The routes are declared there too, for what describes and checks them, and answer the same. They answer
what is not taken here: requests of callers who are not known yet, or may not, above all.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from time import perf_counter
from typing import NamedTuple

from starlette.datastructures import QueryParams

from service.api.infer import PROTOCOL as INFER
from service.api.predict import PROTOCOL as PREDICT
from service.auth.admission import Admission, address_identity
from service.auth.scopes import LONGEST_PATH
from service.auth.scopes import PREDICT as PREDICT_SCOPE
from service.components import Service
from service.http.connection import Exchange
from service.http.instrumentation import Requests
from service.inference.batcher import Part
from service.inference.pipeline import Answered, Protocol, Sent, answer, judged, question
from service.problems import problem_of
from service.protocols.bodies import check_media_type, decompressed
from service.wire import Header

PATH = re.compile(rb"/(v1|v2)/models/([\w.~-]+)(?:/versions/([\w.~-]+))?/(predict|infer)")
PROTOCOLS = {(b"v1", b"predict"): PREDICT, (b"v2", b"infer"): INFER}


class Way(NamedTuple):
    """Where a path leads.

    Attributes:
        protocol: of the route.
        name, version: of the model.
        route: template of the path.
    """

    protocol: Protocol
    name: str
    version: str | None
    route: str


@lru_cache(maxsize=1024)
def way_of(path: bytes) -> Way | None:
    """Where a path leads; None where that is none of these routes, or anything in it is unusual."""
    found = PATH.fullmatch(path)
    if found is None:
        return None
    kind, name, version, verb = found.groups(default=b"")
    protocol = PROTOCOLS.get((kind, verb))
    if protocol is None:
        return None
    route = b"/%b/models/{name}" % kind + b"/versions/{version}" * bool(version) + b"/" + verb
    return Way(protocol, name.decode(), version.decode() or None, route.decode())


class Direct:
    """Answers predict and infer requests.

    Attributes:
        most_bytes: of a body.

    Args:
        service: what there is to answer with.
        admission: of callers.
        requests: to count in.
    """

    def __init__(self, service: Service, admission: Admission, requests: Requests) -> None:
        self.service, self.admission, self.requests = service, admission, requests
        self.most_bytes = service.settings.max_body_bytes

    def leads(self, url: bytes) -> bool:
        """Whether a POST to that URL is for here."""
        return len(url) <= LONGEST_PATH and b"#" not in url and way_of(url.partition(b"?")[0]) is not None

    def take(self, exchange: Exchange) -> Pending | None:
        """A request that is answered here; None where the application is to do it."""
        way = way_of(exchange.url.partition(b"?")[0])
        if way is None:
            return None
        identity = self.admission.at_once(PREDICT_SCOPE, exchange.headers, exchange.found)
        return None if identity is None else Pending(self, exchange, way, identity)


class Pending:
    """One of them on its way: the steps of ``answering.respond``, with callbacks in place of a task."""

    __slots__ = (
        "_asked", "_direct", "_exchange", "_id", "_identity", "_model", "_question", "_received", "_way",
    )  # fmt: skip

    def __init__(self, direct: Direct, exchange: Exchange, way: Way, identity: str) -> None:
        self._direct, self._exchange, self._way, self._identity = direct, exchange, way, identity
        self._id, self._received = direct.requests.id_of(exchange.found), 0
        direct.requests.metrics.in_flight.value += 1

    def drop(self) -> None:
        """Its body never came."""
        self._count(0, 0)

    def begin(self) -> None:
        """Reads it and asks the model."""
        exchange, way, service = self._exchange, self._way, self._direct.service
        settings, metrics, headers = service.settings, service.metrics, exchange.found
        soon: asyncio.Future[Part] | asyncio.Task[Answered] | None = None
        try:
            body = exchange.take_body()
            self._received = len(body)
            self._model = model = service.registry.find(way.name, way.version)
            check_media_type(headers, *way.protocol.media_types, missing=way.protocol.missing)
            body = decompressed(body, headers, settings.max_body_bytes, exchange.lease)
            _, mark, query = exchange.url.partition(b"?")
            sent = Sent(headers, QueryParams(query) if mark else {}, body)
            self._asked = way.protocol.read(sent, settings, model)
            metrics.parse_seconds.observe(perf_counter() - exchange.begun)
            caller = self._identity or address_identity(exchange.client)
            self._question = asked = question(service, model, self._asked, caller, exchange.lease)
            if not asked.options.slow:
                soon = service.engine.predict_soon(model, asked.inputs, asked.norm)
            if soon is None:
                soon = exchange.work(answer(service, asked))
            exchange.working = soon
        except Exception as error:
            # Not from within the parser: what it holds beyond this would begin on a connection that is idle.
            asyncio.get_running_loop().call_soon(self._fail, error)
        else:
            soon.add_done_callback(self._end)

    def _end(self, done: asyncio.Future[Part] | asyncio.Task[Answered]) -> None:
        """Writes the answer."""
        if done.cancelled():  # the client has left, or the service ends
            self._exchange.abort()
            self._count(0, 0)
            return
        service = self._direct.service
        try:
            found, begun = done.result(), perf_counter()
            if isinstance(found, Part):
                found.check_scores()
                found = judged(service, self._question, found)
            content, described = self._way.protocol.write(self._model, self._asked, found)
            service.metrics.write_seconds.observe(perf_counter() - begun)
            self._exchange.lease.hold(len(content))
            self._reply(200, [(b"content-length", b"%d" % len(content)), *described], content)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        problem = problem_of(error) or self._direct.requests.failed(error, self._id)
        answer = problem.response()
        self._reply(problem.kind.status, answer.raw_headers, bytes(answer.body), problem.kind.slug)

    def _reply(self, status: int, headers: list[Header], content: bytes, problem: str | None = None) -> None:
        self._exchange.reply(status, self._direct.requests.headers(headers, self._id), content)
        self._count(status, len(content), problem)

    def _count(self, status: int, sent: int, problem: str | None = None) -> None:
        direct, exchange = self._direct, self._exchange
        direct.requests.metrics.in_flight.value -= 1
        direct.admission.leave(self._identity)
        route, path = self._way.route, exchange.url.partition(b"?")[0].decode()
        direct.requests.count(
            self._id, route, "POST", path, status, exchange.begun, self._received, sent, problem
        )
