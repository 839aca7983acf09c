"""Inference by the Open Inference Protocol v2 (KServe, Triton), the certified radius as one more output."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.context import ModelHere, ServiceHere, model_route
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, json_request, problems
from service.inference.pipeline import Answered, Asked, Protocol, Sent, respond
from service.models.registry import Model
from service.problems import FieldError, Problem, ProblemKind
from service.protocols.bodies import FILE_TYPE, JSON_TYPE, header
from service.protocols.tensors import read_infer, write_infer
from service.protocols.v2_schemas import InferRequest, InferResponse
from service.settings import Settings
from service.wire import AnyArray, Header

LENGTH = "Inference-Header-Content-Length"
SMALL_LENGTH = LENGTH.lower().encode()
CERTIFIED = ("label", "label_index", "margin", "certified_radius", "abstained")
"""Outputs beside the scores, which every answer has."""
ON_REQUEST = ("certified", "radius_float32_portable", "tightening_complete", "certificate")
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
    `radius_float32_portable` with the parameter `portable`, `tightening_complete` with `tighten`, and
    `certificate` with `certificate`.
    """
    return await respond(request, service, model, PROTOCOL)


def _read(sent: Sent, settings: Settings, model: Model) -> Asked:
    length = header(sent.headers, SMALL_LENGTH)
    if length is not None and not (length.isascii() and length.isdecimal() and len(length) < 16):
        raise _invalid(LENGTH, f"is '{length[:64]}'; a number of bytes is accepted")
    request, inputs = read_infer(sent.body, None if length is None else int(length))
    name = model.predictor.file.graph.input
    if request.inputs[0].name != name:
        raise _invalid("inputs[0].name", f"is '{request.inputs[0].name[:64]}'; the input is '{name}'")
    if len(inputs) > settings.max_rows:
        reason = f"has {len(inputs)} rows; at most {settings.max_rows} are accepted in one request"
        raise _invalid("inputs", reason)
    return Asked(inputs, request.parameters, request)


def _write(model: Model, asked: Asked, answered: Answered) -> tuple[bytes, list[Header]]:
    said = {"execution": answered.part.execution}
    if answered.warnings:
        said["warnings"] = " ".join(warning.detail for warning in answered.warnings)
    reference = {"model_name": model.name, "model_version": model.version, "parameters": said}
    content, json_length = write_infer(reference, asked.how, _outputs(model, answered))
    if json_length is None:
        return content, [(b"content-type", JSON_TYPE.encode())]
    return content, [(SMALL_LENGTH, b"%d" % json_length), (b"content-type", FILE_TYPE.encode())]


def name_of_scores(model: Model) -> str:
    """The file's own, unless that is the name of another output."""
    name: str = model.predictor.file.graph.output
    return "scores" if name in (*CERTIFIED, *ON_REQUEST) else name


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
    if predictions.tightening is not None:
        outputs.append(("tightening_complete", predictions.tightening.complete))
    if answered.certificates is not None:
        outputs.append(("certificate", [certificate or "" for certificate in answered.certificates]))
    return outputs


def _invalid(field: str, reason: str) -> Problem:
    return Problem.invalid([FieldError(field=field, reason=reason)])


# Triton's own client gives no type.
PROTOCOL = Protocol((JSON_TYPE, FILE_TYPE), _read, _write, missing=JSON_TYPE)
