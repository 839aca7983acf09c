"""Inference by the Open Inference Protocol v2 (KServe, Triton), the certified radius as one more output."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.answering import Answered, answer
from service.api.arrays import AnyArray
from service.api.bodies import FILE_TYPE, JSON_TYPE, header, media_type_of, read_body, unsupported_type
from service.api.context import ModelHere, Service, ServiceHere, model_route
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, json_request, problems
from service.api.tensors import read_infer, write_infer
from service.errors import FieldError, Problem, ProblemKind
from service.registry import Model
from service.v2_schemas import InferRequest, InferResponse

LENGTH = "Inference-Header-Content-Length"
SMALL_LENGTH = LENGTH.lower().encode()
CERTIFIED = ("label", "label_index", "margin", "certified_radius", "abstained")
"""Outputs beside the scores, which every answer has."""
EXAMPLES: dict[str, dict[str, Any]] = {
    "one input": {
        "inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 0.25]}],
        "parameters": {"epsilon": 0.1},
    }
}
BINARY: dict[int | str, dict[str, Any]] = {
    200: {"content": {FILE_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
}

router = APIRouter(tags=["open inference protocol"])


@model_route(
    router,
    "POST",
    "/infer",
    protocol="v2",
    summary="Classify inputs, by the Open Inference Protocol",
    response_model=InferResponse,
    responses=BINARY
    | problems(*BODY_PROBLEMS, *MODEL_PROBLEMS, ProblemKind.BELOW_POLICY, ProblemKind.NOT_SIGNING),
    openapi_extra=json_request(InferRequest, EXAMPLES),
)
async def infer(request: Request, model: ModelHere, service: ServiceHere) -> Response:
    """Tensors in JSON or binary. Outputs are scores, label, label_index, margin, certified_radius, abstained.

    `certified` is one more where an epsilon is asked about or set by the model's policy,
    `radius_float32_portable` with the parameter `portable`, and `certificate` with `certificate`.
    """
    return await answer_infer(request, service, model)


async def answer_infer(request: Request, service: Service, model: Model) -> Response:
    """The answer to an infer request; reached by the route above or, faster, by ``hot.py``.

    Raises:
        Problem, InputError: what is wrong with it.
    """
    begun, metrics = perf_counter(), service.metrics
    asked, inputs = await _read(request, service, model)
    metrics.parse_seconds.observe(perf_counter() - begun)
    answered = await answer(service, model, inputs, asked.parameters)
    begun = perf_counter()
    reference = {"model_name": model.name, "model_version": model.version}
    content, json_length = write_infer(reference, asked, _outputs(model, answered))
    if json_length is None:
        response = Response(content, media_type=JSON_TYPE)
    else:
        response = Response(content, headers={LENGTH: str(json_length)}, media_type=FILE_TYPE)
    metrics.write_seconds.observe(perf_counter() - begun)
    return response


async def _read(request: Request, service: Service, model: Model) -> tuple[InferRequest, AnyArray]:
    media_type = media_type_of(request)
    if media_type not in (JSON_TYPE, FILE_TYPE):
        raise unsupported_type(media_type, JSON_TYPE, FILE_TYPE)
    length = header(request, SMALL_LENGTH)
    if length is not None and not (length.isascii() and length.isdecimal() and len(length) < 16):
        raise _invalid(LENGTH, f"is '{length[:64]}'; a number of bytes is accepted")
    body = await read_body(request, service.settings.max_body_bytes)
    asked, inputs = read_infer(body, None if length is None else int(length))
    name = model.predictor.file.graph.input
    if asked.inputs[0].name != name:
        raise _invalid("inputs[0].name", f"is '{asked.inputs[0].name[:64]}'; the input is '{name}'")
    if len(inputs) > service.settings.max_rows:
        reason = f"has {len(inputs)} rows; at most {service.settings.max_rows} are accepted in one request"
        raise _invalid("inputs", reason)
    return asked, inputs


def name_of_scores(model: Model) -> str:
    """The file's own, unless that is the name of another output."""
    name: str = model.predictor.file.graph.output
    return "scores" if name in (*CERTIFIED, "certified", "radius_float32_portable", "certificate") else name


def _outputs(model: Model, answered: Answered) -> list[tuple[str, AnyArray | list[str]]]:
    """Withheld labels are "" and -1."""
    part, judgement = answered.part, answered.judgement
    rows = slice(part.start, part.stop)
    predictions, radii = part.batch.predictions, part.batch.predictions.radii
    names, index = model.predictor.class_names, radii.label[rows]
    abstained = judgement.abstained
    if abstained is None:
        labels, abstained = [names[i] for i in index.tolist()], np.zeros(len(index), dtype=bool)
    else:
        index = np.where(abstained, -1, index)
        labels = ["" if i < 0 else names[i] for i in index.tolist()]
    outputs: list[tuple[str, AnyArray | list[str]]] = [
        (name_of_scores(model), predictions.scores[rows]),
        ("label", labels),
        ("label_index", index),
        ("margin", radii.margin[rows]),
        ("certified_radius", radii.certified_radius[rows]),
        ("abstained", abstained),
    ]
    if judgement.certified is not None:
        outputs.append(("certified", judgement.certified))
    if answered.portable is not None:
        outputs.append(("radius_float32_portable", answered.portable))
    if answered.certificates is not None:
        outputs.append(("certificate", [certificate or "" for certificate in answered.certificates]))
    return outputs


def _invalid(field: str, reason: str) -> Problem:
    return Problem.invalid([FieldError(field=field, reason=reason)])
