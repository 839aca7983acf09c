"""Requests of the service's API, and the parsing of their responses; no input or output."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from lipcert.errors import FieldError, problem_error
from lipcert.results import InputWarning, Job, ModelReference, ModelSummary, Prediction, Predictions, read

if TYPE_CHECKING:
    import httpx
    import numpy as np

T = TypeVar("T")
JOBS = {"audit": "/v1/audits", "evaluation": "/v1/evaluations"}


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request.

    Attributes:
        method: HTTP method.
        path: path of the URL.
        read: parser of a successful response.
        idempotent: whether the request may be retried: sending it twice has the effect of sending it once.
        content: body of the request.
        headers: headers beside those of the client.
        query: parameters of the URL.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    idempotent: bool = True
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of ``httpx.Client.request``."""
        sent = {"content": self.content, "headers": self.headers, "params": self.query or None}
        return {"method": self.method, "url": self.path} | sent

    def answer(self, response: httpx.Response) -> T:
        """Return the parsed response.

        Raises:
            ProblemError: the response has an error status.
        """
        if response.is_success:
            return self.read(response)
        try:
            body = response.json()
        except ValueError:
            body = {}
        errors = tuple(FieldError(e["field"], e["reason"]) for e in body.get("errors") or ())
        raise problem_error(
            response.status_code,
            str(body.get("type", "")).removeprefix("/problems/"),
            body.get("detail") or response.reason_phrase,
            errors,
            response.headers.get("x-request-id", ""),
        )


def predict(
    model: str,
    inputs: np.ndarray[Any, Any] | Sequence[Sequence[float]],
    *,
    norm: str | int | None,
    threat: str | Mapping[str, Any] | None,
    epsilon: float | None,
    options: Mapping[str, bool],
    npy: bool,
) -> Call[Predictions]:
    """Return the call that classifies (N, d) inputs, sent as JSON or as the bytes of a .npy file."""
    parameters: dict[str, Any] = {name: value for name, value in options.items() if value}
    if norm is not None:
        parameters["norm"] = norm
    if threat is not None:
        parameters["threat"] = threat
    if epsilon is not None:
        parameters["epsilon"] = epsilon
    path = f"/v1/models/{quote(model, safe='')}/predict"
    if npy:
        query = {name: v if isinstance(v, str) else json.dumps(v) for name, v in parameters.items()}
        headers = {"Content-Type": "application/x-npy"}
        return Call("POST", path, _predictions, content=_npy(inputs), headers=headers, query=query)
    rows = inputs.tolist() if hasattr(inputs, "tolist") else inputs
    return _json("POST", path, _predictions, {"inputs": rows} | parameters)


def list_models() -> Call[list[ModelSummary]]:
    """Return the call that lists all models."""
    return Call("GET", "/v1/models", lambda r: [read(ModelSummary, m) for m in r.json()["models"]])


def show_model(name: str) -> Call[dict[str, Any]]:
    """Return the call that describes a model."""
    return Call("GET", f"/v1/models/{quote(name, safe='')}", lambda r: dict(r.json()))


def upload_model(name: str, content: bytes, force: bool) -> Call[dict[str, Any]]:
    """Return the call that uploads a file as a model."""
    headers = {"Content-Type": "application/octet-stream"}
    path = f"/v1/models/{quote(name, safe='')}{'?force=true' if force else ''}"
    return Call("PUT", path, lambda r: dict(r.json()), content=content, headers=headers)


def submit(kind: str, model: str, parameters: Mapping[str, Any]) -> Call[str]:
    """Return the call that starts a job and reads its id; not idempotent, as each call starts a job."""
    path = f"/v1/models/{quote(model, safe='')}/{kind}s"
    return _json("POST", path, _job_id, dict(parameters), idempotent=False, Prefer="respond-async")


def job(method: str, kind: str, job_id: str) -> Call[Job]:
    """Return the call that gets a job (GET) or cancels it (DELETE)."""
    return Call(method, f"{JOBS[kind]}/{quote(job_id, safe='')}", lambda r: read(Job, r.json()))


def _json(
    method: str,
    path: str,
    reader: Callable[[httpx.Response], T],
    body: Mapping[str, Any],
    *,
    idempotent: bool = True,
    **headers: str,
) -> Call[T]:
    # NaN has no JSON: raise ValueError here, before the service refuses it.
    content = json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
    return Call(
        method, path, reader, idempotent, content, headers={"Content-Type": "application/json"} | headers
    )


def _npy(inputs: np.ndarray[Any, Any] | Sequence[Sequence[float]]) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, np.asarray(inputs), allow_pickle=False)
    return file.getvalue()


def _predictions(response: httpx.Response) -> Predictions:
    body = response.json()
    return Predictions(
        read(ModelReference, body["model"]),
        tuple(read(Prediction, p) for p in body["predictions"]),
        tuple(read(InputWarning, w) for w in body.get("warnings", ())),
        body.get("execution"),
    )


def _job_id(response: httpx.Response) -> str:
    place = response.headers.get("location") or response.headers["content-location"]
    return str(place.rpartition("/")[2])
