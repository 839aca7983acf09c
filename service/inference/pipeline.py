"""From decoded inputs to certified answers as the model's policy allows them. Knows no HTTP.

Both transports call :class:`PredictionPipeline`: the routes of ``service.api``, and the fast path of
``service.http``.
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lipmodel.errors import InputError
from lipmodel.norms import Array
from service.budget import Lease
from service.inference.batcher import Part
from service.inference.engine import Engine
from service.inference.request import DecodedRequest, InputWarning, Question, requested_threat
from service.models.policy import judge
from service.models.registry import Model
from service.problems import Problem, ProblemKind
from service.settings import Settings
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:  # its imports take memory that a service without signing keys saves
    from service.inference.signer import Signer

ROW_BYTES, SCORE_BYTES = 1024, 64
"""Upper limits on the memory that encoding takes, for each row and for each score of a row."""
WITHHELD = -1
"""Index in place of a label that the model's policy withholds."""


class Answers(NamedTuple):
    """Answers to the N inputs of a question.

    Attributes:
        question: that is answered.
        part: scores, margins and radii.
        labels: (N,) class indices, ``WITHHELD`` where the model's policy abstains.
        certified: (N,) whether each radius covers the epsilon of the request or of the policy; None without
            one.
        warnings: about the inputs; they take nothing from the answers.
        portable: (N,) radii for every runtime; None unless requested.
        certificates: N signed ones, None in place of those of withheld answers; None unless requested.
    """

    question: Question
    part: Part
    labels: NDArray[np.int64]
    certified: NDArray[np.bool_] | None
    warnings: list[InputWarning]
    portable: Array | None = None
    certificates: list[str | None] | None = None


class PredictionPipeline:
    """Checks, answers and judges questions to models; refuses to sign where there is no signer."""

    def __init__(self, engine: Engine, signer: Signer | None, settings: Settings, metrics: Metrics) -> None:
        self._engine, self._signer = engine, signer
        self.settings, self.metrics = settings, metrics

    def question(
        self, model: Model, decoded: DecodedRequest, caller: str, lease: Lease, begun: float
    ) -> Question:
        """Return the question of a request, with memory held for its arrays in place of its body.

        The request began at the time ``begun`` of ``perf_counter``.

        Raises:
            InputError: the inputs do not fit the model, or are too many for the options.
            Problem: 501, no signing keys; 413 or 503, the inputs or the response exceed the memory budget.
        """
        self.metrics.parse_seconds.observe(perf_counter() - begun)
        inputs, options, context = decoded
        settings, policy = self.settings, model.settings.policy
        if (options.tighten or options.certificate) and len(inputs) > settings.max_tightened_rows:
            limit = f"'tighten' or 'certificate' accept at most {settings.max_tightened_rows}"
            raise InputError(f"has {len(inputs)} rows; {limit}")
        if options.certificate and self._signer is None:
            detail = "this service signs no certificates: the setting signing_keys is not set"
            raise Problem(ProblemKind.NOT_SIGNING, detail)
        checked, threat = model.predictor.check_inputs(inputs), requested_threat(model, options)
        threat = policy.threat_for(threat, "norm" if options.threat is None else "threat")
        if options.certificate and threat.scale is not None:
            raise InputError(
                "is scaled; signed certificates are issued for balls: leave out 'certificate' or give a norm",
                field="threat",
            )
        row_bytes = ROW_BYTES + SCORE_BYTES * len(model.predictor.class_names)
        if len(checked) * row_bytes > settings.max_buffered_bytes:
            most = settings.max_buffered_bytes // row_bytes
            detail = f"answers to {len(checked)} rows are too large; this model accepts at most {most} rows"
            raise Problem(ProblemKind.BODY_TOO_LARGE, detail)
        lease.hold(checked.nbytes + (0 if checked is inputs else inputs.nbytes))
        return Question(model, checked, threat, options, caller, context)

    def start(self, question: Question) -> asyncio.Future[Part] | None:
        """Queue a question, and return the future that :meth:`finish` takes the result of.

        Returns None where :meth:`answer` is needed: for slow options, many rows, or a norm that the model is
        not prepared for.
        """
        if question.options.slow:
            return None
        return self._engine.submit(question.model, question.inputs, question.threat)

    async def answer(self, question: Question) -> Answers:
        """Return the answers to any question.

        Raises:
            InputError: a score overflows.
            Problem: 422, the model's policy rejects an answer; 429, too much long work is queued.
        """
        model, inputs, threat, options, caller, _ = question
        part = await self._engine.predict(model, inputs, threat, caller=caller, tighten=options.tighten)
        answers = self.finish(question, part)
        if options.portable:
            portable = await self._engine.portable_radii(model, inputs, threat, caller)
            answers = answers._replace(portable=portable)
        if options.certificate:
            answers = answers._replace(certificates=await self._sign(answers))
        return answers

    def finish(self, question: Question, part: Part) -> Answers:
        """Return plain answers as the model's policy allows them.

        Raises:
            InputError: a score overflows.
            Problem: 422, the model's policy rejects an answer.
        """
        part.check_scores()
        model = question.model
        judgement = judge(model.settings.policy, question.threat, part.radii, question.options.epsilon)
        labels, abstained = part.labels, judgement.abstained
        if abstained is not None:
            labels = np.where(abstained, WITHHELD, labels)
            self.metrics.served_radii.abstentions[model.name] += int(abstained.sum())
        return Answers(question, part, labels, judgement.certified, self._warnings(model, part))

    def _warnings(self, model: Model, part: Part) -> list[InputWarning]:
        outside = part.outside
        if outside is None:
            return []
        rows = np.flatnonzero(outside).tolist()
        self.metrics.inputs_outside_box.of(model.name).add(len(rows))
        detail = model.predictor.claims.outside_warning(len(rows), len(outside))
        return [InputWarning(detail=detail, inputs=rows)]

    async def _sign(self, answers: Answers) -> list[str | None]:
        """Return certificates, signed in a thread: each takes as long as a prediction."""
        assert self._signer is not None  # checked by `question`
        question, given = answers.question, answers.labels != WITHHELD
        predictions = answers.part.predictions.rows(given)
        sign = partial(
            self._signer.certificates, question.model.predictor, question.inputs[given], predictions
        )
        signed = iter(await self._engine.run(question.caller, sign))
        return [next(signed) if one else None for one in given.tolist()]
