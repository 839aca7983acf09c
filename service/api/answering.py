"""From inputs to answers as the model's policy allows them, the same for every protocol."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import NamedTuple

import numpy as np

from lipmodel.errors import InputError
from lipmodel.norms import Array
from service.api.arrays import AnyArray
from service.api.context import Service
from service.batcher import Part
from service.errors import Problem, ProblemKind
from service.policy import Judgement, judge
from service.registry import Model
from service.schemas import PredictOptions


class Answered(NamedTuple):
    """Answers to the N inputs of one request.

    Attributes:
        part: the answers themselves.
        judgement: what the model's policy makes of them.
        portable: (N,) radii for every runtime; None where they were not asked for.
        certificates: N signed ones, None in place of those of answers withheld; likewise.
    """

    part: Part
    judgement: Judgement
    portable: Array | None
    certificates: list[str | None] | None


async def answer(service: Service, model: Model, inputs: AnyArray, options: PredictOptions) -> Answered:
    """Answers (N, …) inputs, as they were sent.

    Raises:
        InputError: they do not fit the model, or are too many for what is asked.
        Problem: 422, the model's policy rejects an answer; 501, there is no key to sign with.
    """
    slow, most = options.tighten or options.certificate, service.settings.max_tightened_rows
    if slow and len(inputs) > most:
        reason = f"has {len(inputs)} rows; at most {most} are accepted with 'tighten' or 'certificate'"
        raise InputError(reason)
    if options.certificate and service.signer is None:
        detail = "certificates are not signed here: the setting signing_keys names no keys"
        raise Problem(ProblemKind.NOT_SIGNING, detail)
    policy = model.settings.policy
    checked, norm = model.predictor.check_inputs(inputs), policy.norm_for(options.norm)
    # Certificates speak of evaluations in float64, whatever the model is set to.
    execution = np.float64 if options.certificate else model.settings.dtype
    part = await service.engine.predict(model, checked, norm, tighten=options.tighten, execution=execution)
    judgement = judge(policy, norm, part.radii, options.epsilon)
    if judgement.abstained is not None:
        service.engine.served.abstentions[model.name] += int(judgement.abstained.sum())
    portable = await service.engine.portable_radii(model, checked, norm) if options.portable else None
    signed = await _sign(service, model, checked, part, judgement) if options.certificate else None
    return Answered(part, judgement, portable, signed)


async def _sign(
    service: Service, model: Model, inputs: Array, part: Part, judgement: Judgement
) -> list[str | None]:
    """Certificates of the answers that are given; in a thread, since each takes as long as a prediction."""
    assert service.signer is not None
    given = np.ones(len(inputs), dtype=bool) if judgement.abstained is None else ~judgement.abstained
    predictions = part.predictions.rows(given)
    work = partial(service.signer.certificates, model.predictor, inputs[given], predictions)
    signed = iter(await asyncio.to_thread(work))
    return [next(signed) if one else None for one in given.tolist()]
