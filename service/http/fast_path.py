"""Fast path for predict and infer: handled in the connection's callbacks, without ASGI middleware or routing.

These layers cost more than the prediction of a small model. The routes are declared in ``service.api``, too,
which document them and handle all requests that the fast path leaves to the application, such as those of
callers whose credentials are yet to be verified; the responses are the same.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import NamedTuple

from starlette.datastructures import QueryParams

from service.auth.admission import Admission
from service.auth.scopes import LONGEST_PATH
from service.auth.scopes import PREDICT as PREDICT_SCOPES
from service.http.connection import Connection, FastExchange
from service.http.instrumentation import Instrumentation
from service.inference.batcher import Part
from service.inference.pipeline import Answers, PredictionPipeline
from service.models.watcher import Models
from service.problems import problem_of
from service.protocols import v1, v2
from service.protocols.bodies import decompressed
from service.protocols.protocol import Codec, Payload
from service.wire import Header, Headers

PATH = re.compile(rb"/(v1|v2)/models/([\w.~-]+)(?:/versions/([\w.~-]+))?/(predict|infer)")
CODECS = {(b"v1", b"predict"): v1.CODEC, (b"v2", b"infer"): v2.CODEC}


class Target(NamedTuple):
    """Model and protocol that a path names; the route is the template of the path."""

    codec: Codec
    name: str
    version: str | None
    route: str
    path: str


@lru_cache(maxsize=1024)
def target_of(path: bytes) -> Target | None:
    """Return the target of a path; None for any other route, and for a path with unusual characters."""
    found = PATH.fullmatch(path)
    if found is None:
        return None
    kind, name, version, verb = found.groups(default=b"")
    codec = CODECS.get((kind, verb))
    if codec is None:
        return None
    route = b"/%b/models/{name}" % kind + b"/versions/{version}" * bool(version) + b"/" + verb
    return Target(codec, name.decode(), version.decode() or None, route.decode(), path.decode())


class FastPath:
    """Handles predict and infer requests."""

    def __init__(
        self,
        pipeline: PredictionPipeline,
        models: Models,
        admission: Admission,
        instrumentation: Instrumentation,
    ) -> None:
        self.pipeline, self.models = pipeline, models
        self.admission, self.instrumentation = admission, instrumentation
        self.max_body_bytes = pipeline.settings.max_body_bytes

    @staticmethod
    def target(url: bytes) -> Target | None:
        """Return the target of a POST to a URL; None leaves it to the application."""
        return target_of(url.partition(b"?")[0]) if len(url) <= LONGEST_PATH and b"#" not in url else None

    def accept(self, connection: Connection, target: Target, headers: Headers) -> FastPrediction | None:
        """Return a request whose body is still to come; None leaves it to the application."""
        raw, client = connection.headers, connection.client
        identity = self.admission.try_admit(PREDICT_SCOPES, raw, headers, client)
        return None if identity is None else FastPrediction(self, connection, target, headers, identity)


class FastPrediction(FastExchange):
    """One request of the fast path: the steps of ``service.api.predict.respond`` as callbacks."""

    __slots__ = ("_identity", "_path", "_query", "_question", "_record", "_target")

    def __init__(
        self, path: FastPath, connection: Connection, target: Target, headers: Headers, identity: str
    ) -> None:
        super().__init__(connection, headers)
        self._path, self._target, self._identity = path, target, identity
        self._query = connection.url.partition(b"?")[2]
        self._record = path.instrumentation.open("POST", target.path, headers)
        self._record.route = target.route

    def drop(self) -> None:
        """End the request: its body will never be complete."""
        self._close(0, 0)

    def begin(self) -> None:
        """Decode the request and start its answer."""
        path, codec, pipeline = self._path, self._target.codec, self._path.pipeline
        started: asyncio.Future[Part] | asyncio.Task[Answers] | None
        try:
            body = self.take_body()
            self._record.received = len(body)
            model = path.models.current.find(self._target.name, self._target.version)
            codec.check_media_type(self.headers)
            body = decompressed(body, self.headers, path.max_body_bytes, self.lease)
            payload = Payload(self.headers, QueryParams(self._query) if self._query else {}, body)
            decoded = codec.decode(payload, pipeline.settings.max_rows, model)
            self._question = question = pipeline.question(
                model, decoded, self._identity, self.lease, self._record.begun
            )
            started = pipeline.start(question)
            if started is None:
                started = self.run(pipeline.answer(question))
            self.working = started
        except Exception as error:
            # Not from within the parser: a pipelined request that it holds would begin on an idle connection.
            asyncio.get_running_loop().call_soon(self._fail, error)
        else:
            started.add_done_callback(self._respond)

    def _respond(self, done: asyncio.Future[Part] | asyncio.Task[Answers]) -> None:
        """Encode and send the answers."""
        if done.cancelled():  # the client has left, or the server stops
            self.abort()
            self._close(0, 0)
            return
        pipeline = self._path.pipeline
        try:
            answers = done.result()
            if isinstance(answers, Part):
                answers = pipeline.finish(self._question, answers)
            content, described = self._target.codec.response(pipeline, answers)
            self.lease.hold(len(content))
            self._send(200, [(b"content-length", b"%d" % len(content)), *described], content)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        problem = problem_of(error) or self._record.fault(error)
        response = problem.response()
        self._send(problem.kind.status, response.raw_headers, bytes(response.body), problem.kind.slug)

    def _send(self, status: int, headers: list[Header], content: bytes, problem: str | None = None) -> None:
        self.respond(status, self._record.headers(headers), content)
        self._close(status, len(content), problem)

    def _close(self, status: int, sent: int, problem: str | None = None) -> None:
        self._path.admission.leave(self._identity)
        self._record.close(status, sent, problem)
