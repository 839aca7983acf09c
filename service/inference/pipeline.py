"""From a request for predictions to its answer as the model's policy allows it, the same for every protocol.

:func:`respond` answers as the framework asks; ``direct.py`` takes the same steps without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from fastapi import Request
from starlette.responses import Response

from lipmodel.errors import InputError
from lipmodel.norms import Array, Norm
from service.auth.admission import CALLER
from service.budget import Lease
from service.components import Service
from service.inference.batcher import Part
from service.inference.engine import is_long
from service.inference.request import InputWarning, PredictOptions
from service.models.policy import Judgement, judge
from service.models.registry import Model
from service.problems import Problem, ProblemKind
from service.protocols.bodies import check_media_type, headers_of, lease_of, read_body, until_gone
from service.settings import Settings
from service.wire import AnyArray, Header, Headers

ROW_BYTES, SCORE_BYTES = 1024, 64
"""That the answer to a row takes at most while it is written, and each of its scores."""


class Sent(NamedTuple):
    """A request as it came.

    Attributes:
        headers: by name in small letters.
        query: names and values of the URL.
        body: whole, and no longer compressed.
    """

    headers: Headers
    query: Mapping[str, str]
    body: bytes


class Asked(NamedTuple):
    """A request as it was read.

    Attributes:
        inputs: (N, …) as they were sent.
        options: beside them.
        how: what the protocol needs to write the answer.
    """

    inputs: AnyArray
    options: PredictOptions
    how: Any = None


class Question(NamedTuple):
    """What is asked of a model.

    Attributes:
        model: to answer.
        inputs: (N, d) that fit it.
        norm: of the radii.
        options: of the request.
        caller: identity of who asks.
    """

    model: Model
    inputs: Array
    norm: Norm
    options: PredictOptions
    caller: str

    @property
    def long(self) -> bool:
        """Whether a thread answers it."""
        return self.options.slow or is_long(self.model, self.inputs)


class Answered(NamedTuple):
    """Answers to the N inputs of one request.

    Attributes:
        part: the answers themselves.
        judgement: what the model's policy makes of them.
        warnings: about the inputs; they take nothing from the answers.
        portable: (N,) radii for every runtime; None where they were not asked for.
        certificates: N signed ones, None in place of those of answers withheld; likewise.
    """

    part: Part
    judgement: Judgement
    warnings: list[InputWarning]
    portable: Array | None = None
    certificates: list[str | None] | None = None


class Protocol(NamedTuple):
    """How requests and answers are written.

    Attributes:
        media_types: of requests.
        missing: the type of a body whose type is not given; None refuses one.
        read: a request; raises Problem or InputError for what is wrong with it.
        write: an answer: its body, and what its headers tell of that; raises likewise.
    """

    media_types: tuple[str, ...]
    read: Callable[[Sent, Settings, Model], Asked]
    write: Callable[[Model, Asked, Answered], tuple[bytes, list[Header]]]
    missing: str | None = None


async def respond(request: Request, service: Service, model: Model, protocol: Protocol) -> Response:
    """The answer to a request.

    Raises:
        Problem, InputError: what is wrong with it.
    """
    begun, metrics, headers = perf_counter(), service.metrics, headers_of(request)
    check_media_type(headers, *protocol.media_types, missing=protocol.missing)
    settings, lease = service.settings, lease_of(request)
    sent = Sent(headers, dict(request.query_params), await read_body(request, settings.max_body_bytes))
    asked = protocol.read(sent, settings, model)
    del sent  # the body
    metrics.parse_seconds.observe(perf_counter() - begun)
    asking = question(service, model, asked, request.scope[CALLER], lease)
    answering = answer(service, asking)
    answered = await (until_gone(request, answering) if asking.long else answering)
    begun = perf_counter()
    content, described = protocol.write(model, asked, answered)
    response = Response(content)
    response.raw_headers += described
    metrics.write_seconds.observe(perf_counter() - begun)
    return response


def question(service: Service, model: Model, asked: Asked, caller: str, lease: Lease) -> Question:
    """Return the question of a request, with memory held for its arrays in place of its body.

    Raises:
        InputError: the inputs do not fit the model, or are too many for what is asked.
        Problem: 501, there is no key to sign with; 413 or 503, there is no room for inputs or answers.
    """
    inputs, options, _ = asked
    slow, most = options.tighten or options.certificate, service.settings.max_tightened_rows
    if slow and len(inputs) > most:
        reason = f"has {len(inputs)} rows; at most {most} are accepted with 'tighten' or 'certificate'"
        raise InputError(reason)
    if options.certificate and service.signer is None:
        detail = "certificates are not signed here: the setting signing_keys names no keys"
        raise Problem(ProblemKind.NOT_SIGNING, detail)
    checked, norm = model.predictor.check_inputs(inputs), model.settings.policy.norm_for(options.norm)
    row_bytes = ROW_BYTES + SCORE_BYTES * len(model.predictor.class_names)
    if len(checked) * row_bytes > service.settings.max_buffered_bytes:
        most = service.settings.max_buffered_bytes // row_bytes
        detail = f"answers to {len(checked)} rows are too large; at most {most} of this model are accepted"
        raise Problem(ProblemKind.BODY_TOO_LARGE, detail)
    lease.hold(checked.nbytes + (0 if checked is inputs else inputs.nbytes))
    return Question(model, checked, norm, options, caller)


async def answer(service: Service, question: Question) -> Answered:
    """Answers a question.

    Raises:
        InputError: the model's scores overflow there.
        Problem: 422, the model's policy rejects an answer.
    """
    model, inputs, norm, options, caller = question
    part = await service.engine.predict(model, inputs, norm, caller=caller, tighten=options.tighten)
    answered = judged(service, question, part)
    if options.portable:
        portable = await service.engine.portable_radii(model, inputs, norm, caller)
        answered = answered._replace(portable=portable)
    if options.certificate:
        signed = await _sign(service, question, part, answered.judgement)
        answered = answered._replace(certificates=signed)
    return answered


def judged(service: Service, question: Question, part: Part) -> Answered:
    """Answers as the policy allows them, with nothing beside.

    Raises:
        Problem: 422, it rejects one.
    """
    model, _, norm, options, _ = question
    judgement = judge(model.settings.policy, norm, part.radii, options.epsilon)
    if judgement.abstained is not None:
        service.engine.served.abstentions[model.name] += int(judgement.abstained.sum())
    if part.outside is None:
        return Answered(part, judgement, [])
    rows = np.flatnonzero(part.outside).tolist()
    service.metrics.inputs_outside_box.of(model.name).add(len(rows))
    detail = model.predictor.claims.outside_warning(len(rows), len(part.outside))
    return Answered(part, judgement, [InputWarning(detail=detail, inputs=rows)])


async def _sign(service: Service, question: Question, part: Part, judgement: Judgement) -> list[str | None]:
    """Certificates of the answers that are given; in a thread, since each takes as long as a prediction."""
    assert service.signer is not None
    model, inputs = question.model, question.inputs
    given = np.ones(len(inputs), dtype=bool) if judgement.abstained is None else ~judgement.abstained
    predictions = part.predictions.rows(given)
    work = partial(service.signer.certificates, model.predictor, inputs[given], predictions)
    signed = iter(await service.engine.run(question.caller, work))
    return [next(signed) if one else None for one in given.tolist()]
