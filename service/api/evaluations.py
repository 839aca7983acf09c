"""Evaluations: clean and certified accuracy on labelled data."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from lipmodel.errors import InputError
from service.api import job_routes as jobs
from service.api.bodies import headers_of, read_form, read_json
from service.api.context import ModelDep, ServiceDep
from service.api.openapi import form_request, json_request
from service.api.schemas.evaluations import EVALUATION_EXAMPLES, EvaluationRequest, EvaluationResult
from service.inference.request import requested_threat
from service.jobs import evaluation_data as labelled
from service.jobs.queue import Fill
from service.models.registry import Model
from service.protocols.bodies import input_array, media_type_of, parse
from service.sandbox import data_folder
from service.settings import Settings

router = APIRouter(tags=["evaluations"])

FILES = {
    "data": "A .npz file with arrays inputs and labels, or a .parquet file with the label as last column.",
    "images": "Instead of data: an IDX file of images, plain or gzipped; pixels are divided by 255.",
    "labels": "With images: the IDX file of their labels, plain or gzipped.",
}


BODY = json_request(EvaluationRequest, EVALUATION_EXAMPLES)
BODY["requestBody"]["content"] |= form_request(EvaluationRequest, FILES)


@jobs.submit_route(
    router,
    "evaluation",
    summary="Evaluate a model: clean and certified accuracy on labelled data",
    report=EvaluationResult,
    request=BODY,
)
async def evaluate_model(request: Request, model: ModelDep, service: ServiceDep) -> Response:
    """Data are JSON rows, a file of the service's data folder, or files of a form."""
    settings, source = service.settings, dict[str, Any]()
    async with AsyncExitStack() as stack:
        if media_type_of(headers_of(request)) == "multipart/form-data":
            parts = read_form(request, settings.max_upload_bytes, service.spooled)
            body, data, fill = _of_form(await stack.enter_async_context(parts), settings)
            source["data"] = "upload"
        else:
            body = await read_json(request, EvaluationRequest, settings.max_body_bytes)
            data, fill = _of_json(body, model, settings)
            source |= {"data": body.path} if body.path else {"rows": len(body.inputs or [])}
        if body.attack > settings.max_attacked:
            reason = f"is {body.attack}; at most {settings.max_attacked} is accepted"
            raise InputError(reason, field="attack")
        if body.report:
            jobs.require_packages()
        threat = requested_threat(model, body)
        folder = settings.data
        under = str(folder.resolve()) if folder and body.path else None  # opened again by the worker
        named = body.path or ("the rows sent" if data is None else "the file sent")
        options = {"data": data, "under": under, "titles": {"model": model.name, "data": named}}
        unnamed = {"threat"} if body.threat is None else set()
        parameters = body.model_dump(mode="json", exclude={"inputs", "labels", "path", *unnamed})
        return await jobs.submit(
            request,
            service.jobs,
            "evaluation",
            model,
            parameters=parameters | source,
            options=parameters | {"threat": threat and threat.to_json()} | options,
            fill=fill,
        )


def _of_json(body: EvaluationRequest, model: Model, settings: Settings) -> tuple[str | None, Fill]:
    """Return the path of the data for the worker, and a function that writes data to the job's folder."""
    if body.path is not None:
        if body.inputs is not None or body.labels is not None:
            raise InputError(
                "is given together with inputs or labels; only one source of data is accepted", field="path"
            )
        data_folder.find(settings.data, body.path)
        return body.path, lambda _: None
    if body.inputs is None:
        raise InputError("is missing; send inputs and labels, a path, or a form with files")
    rows = input_array(body.inputs, model.predictor.file.graph.input_size, settings.max_rows)
    classes = len(model.predictor.class_names)
    return None, labelled.from_rows(model.predictor.check_inputs(rows), body.labels or [], classes)


def _of_form(form: FormData, settings: Settings) -> tuple[EvaluationRequest, str | None, Fill]:
    """Return the request, the path of the data, and a function that writes the files to the job's folder."""
    given = form.get("request", "{}")
    if isinstance(given, UploadFile):
        raise InputError("is a file; a JSON field is expected", field="request")
    body = parse(EvaluationRequest, given)
    if body.inputs is not None or body.labels is not None or body.path is not None:
        raise InputError(
            "names data in addition to the files of the form; only one source of data is accepted",
            field="request",
        )
    names = sorted(set(form) - {"request"})
    files = {name: part.file for name in names if isinstance(part := form[name], UploadFile)}
    if sorted(files) != names or names not in (["data"], ["images", "labels"]):
        raise InputError(
            f"has the files {names}; expected are 'data', or 'images' and 'labels'", field="body"
        )
    return body, *labelled.from_files(files, settings.max_data_bytes)


jobs.add_routes(router, "evaluation")
