"""Two clients of the service with equal methods, for threads and for asyncio.

::

    with Client("http://127.0.0.1:8000") as client:
        for answer in client.predict("two-moons", [[0.0, 1.0]], epsilon=0.1):
            print(answer.label if answer.certified else "not certified")

Idempotent requests (all but starting a job) are retried after connection errors, 429 and 503, see
:class:`Retries`. Other errors are raised immediately, see :mod:`lipcert.errors`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import httpx

from lipcert import calls
from lipcert.calls import Call
from lipcert.errors import LipcertClientError, ServiceUnreachableError
from lipcert.results import Job, ModelSummary, Predictions

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AsyncClient", "Client", "Retries"]

T = TypeVar("T")
Kind = Literal["audit", "evaluation"]
RETRIED = (429, 503)
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Retries:
    """Exponential backoff with full jitter (Brooker 2015), so that clients do not retry simultaneously.

    Attributes:
        tries: maximum number of tries; 1 disables retries.
        first: maximum wait before the second try, in seconds; doubled for each further try.
        longest: maximum wait before any try, in seconds, even if the service's Retry-After is longer.
    """

    tries: int = 4
    first: float = 0.2
    longest: float = 10.0

    def wait(self, tried: int, retry_after: str | None = None) -> float | None:
        """Return the seconds to wait before the next try; None to give up.

        Args:
            tried: number of tries so far, at least 1.
            retry_after: the Retry-After header, if any; ignored unless it is a number of seconds.
        """
        if tried >= self.tries:
            return None
        wait = random.uniform(0, self.first * 2 ** (tried - 1))
        if retry_after is not None and retry_after.isdecimal():
            wait = max(wait, float(retry_after))
        return min(wait, self.longest)


def _pause(
    call: Call[Any], retries: Retries, tried: int, outcome: httpx.Response | Exception
) -> float | None:
    """Return the seconds until the next try; None if the outcome is final."""
    if isinstance(outcome, httpx.Response):
        if outcome.status_code not in RETRIED or not call.idempotent:
            return None
        return retries.wait(tried, outcome.headers.get("retry-after"))
    # A connection that failed to open has started nothing.
    return retries.wait(tried) if call.idempotent or isinstance(outcome, httpx.ConnectError) else None


class _Connected:
    """The connections of a client, and its retry policy."""

    _kind: ClassVar[Any]
    _http: Any

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._retries = retries or Retries()
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = self._kind(base_url=url, headers=headers, timeout=timeout, transport=transport)


class Client(_Connected):
    """A client with persistent connections; may be shared by threads.

    Args:
        url: URL of the service, ``http://host:port``.
        api_key: an API key or a JWT, sent as a bearer token.
        timeout: timeout of each try, in seconds.
        retries: the retry policy.
        transport: an httpx transport, for tests.
    """

    _kind = httpx.Client
    _http: httpx.Client

    def predict(
        self,
        model: str,
        inputs: np.ndarray[Any, Any] | Sequence[Sequence[float]],
        *,
        norm: str | int | None = None,
        threat: str | Mapping[str, Any] | None = None,
        epsilon: float | None = None,
        npy: bool = False,
        **options: bool,
    ) -> Predictions:
        """Classify (N, d) inputs; return predictions with certified radii.

        Args:
            model: name of the model.
            inputs: flat rows, or an array of float32 or float64.
            norm: norm of the radii: "l1", "l2" or "linf", also "1", "2", "inf"; by default the model's norm.
            threat: threat set of the radii in place of ``norm``: a name from the model's settings, or a
                mapping such as ``{"norm": "inf", "scale": {"age": 2, "*": 0}}``; radii are in its units.
            epsilon: radius that ``certified`` refers to.
            npy: send a binary array (application/x-npy), smaller and faster than JSON.
            options: ``tighten``, ``portable`` or ``certificate``, see the service's ``/docs``.

        Raises:
            ProblemError: the service refuses the request or fails.
            ServiceUnreachableError: the service does not respond.
        """
        return self._send(
            calls.predict(model, inputs, norm=norm, threat=threat, epsilon=epsilon, options=options, npy=npy)
        )

    def models(self) -> list[ModelSummary]:
        """Return all models of the service, including refused ones."""
        return self._send(calls.list_models())

    def model(self, name: str) -> dict[str, Any]:
        """Return the description of a model: the response of ``GET /v1/models/NAME``."""
        return self._send(calls.show_model(name))

    def upload(self, name: str, content: bytes, *, force: bool = False) -> dict[str, Any]:
        """Upload an ONNX file as a model, and return its description.

        Args:
            name: name of the model; an existing model is replaced.
            content: the ONNX file's bytes.
            force: replace a model even if the change breaks its clients.
        """
        return self._send(calls.upload_model(name, content, force))

    def start(self, kind: Kind, model: str, parameters: Mapping[str, Any]) -> str:
        """Start an audit or evaluation and return its id; ``/docs`` lists the parameters."""
        return self._send(calls.submit(kind, model, parameters))

    def job(self, kind: Kind, job_id: str) -> Job:
        """Return the state of a job."""
        return self._send(calls.job("GET", kind, job_id))

    def cancel(self, kind: Kind, job_id: str) -> Job:
        """Cancel a job and return its state."""
        return self._send(calls.job("DELETE", kind, job_id))

    def wait(self, kind: Kind, job_id: str, *, seconds: float = 3600.0) -> Job:
        """Return the job after it has ended.

        Raises:
            TimeoutError: the job is still running after that many seconds; it is not cancelled.
        """
        end = time.monotonic() + seconds
        while not (job := self.job(kind, job_id)).ended:
            if time.monotonic() > end:
                raise TimeoutError(f"the {kind} {job_id} has not ended within {seconds:g} s")
            time.sleep(POLL_SECONDS)
        return job

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        tried = 0
        while True:
            tried += 1
            outcome: httpx.Response | Exception
            try:
                outcome = self._http.request(**call.arguments)
            except httpx.TransportError as error:
                outcome = error
            pause = _pause(call, self._retries, tried, outcome)
            if pause is None:
                return _final(call, outcome)
            time.sleep(pause)


class AsyncClient(_Connected):
    """A client for asyncio, with the arguments, methods and errors of :class:`Client`."""

    _kind = httpx.AsyncClient
    _http: httpx.AsyncClient

    async def predict(
        self,
        model: str,
        inputs: np.ndarray[Any, Any] | Sequence[Sequence[float]],
        *,
        norm: str | int | None = None,
        threat: str | Mapping[str, Any] | None = None,
        epsilon: float | None = None,
        npy: bool = False,
        **options: bool,
    ) -> Predictions:
        """Return predictions; see :meth:`Client.predict`."""
        return await self._send(
            calls.predict(model, inputs, norm=norm, threat=threat, epsilon=epsilon, options=options, npy=npy)
        )

    async def models(self) -> list[ModelSummary]:
        """Return all models; see :meth:`Client.models`."""
        return await self._send(calls.list_models())

    async def model(self, name: str) -> dict[str, Any]:
        """Return the description of a model; see :meth:`Client.model`."""
        return await self._send(calls.show_model(name))

    async def upload(self, name: str, content: bytes, *, force: bool = False) -> dict[str, Any]:
        """Upload a model; see :meth:`Client.upload`."""
        return await self._send(calls.upload_model(name, content, force))

    async def start(self, kind: Kind, model: str, parameters: Mapping[str, Any]) -> str:
        """Start a job and return its id; see :meth:`Client.start`."""
        return await self._send(calls.submit(kind, model, parameters))

    async def job(self, kind: Kind, job_id: str) -> Job:
        """Return the state of a job; see :meth:`Client.job`."""
        return await self._send(calls.job("GET", kind, job_id))

    async def cancel(self, kind: Kind, job_id: str) -> Job:
        """Cancel a job; see :meth:`Client.cancel`."""
        return await self._send(calls.job("DELETE", kind, job_id))

    async def wait(self, kind: Kind, job_id: str, *, seconds: float = 3600.0) -> Job:
        """Return the job after it has ended; see :meth:`Client.wait`."""
        async with asyncio.timeout(seconds):
            while not (job := await self.job(kind, job_id)).ended:
                await asyncio.sleep(POLL_SECONDS)
            return job

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, call: Call[T]) -> T:
        tried = 0
        while True:
            tried += 1
            outcome: httpx.Response | Exception
            try:
                outcome = await self._http.request(**call.arguments)
            except httpx.TransportError as error:
                outcome = error
            pause = _pause(call, self._retries, tried, outcome)
            if pause is None:
                return _final(call, outcome)
            await asyncio.sleep(pause)


def _final(call: Call[T], outcome: httpx.Response | Exception) -> T:
    """Return the parsed response of the last try.

    Raises:
        LipcertClientError: there is no response, a problem, or a response in another format.
    """
    if not isinstance(outcome, httpx.Response):
        raise ServiceUnreachableError(f"no response: {outcome or type(outcome).__name__}") from outcome
    try:
        return call.answer(outcome)
    except (ValueError, KeyError, TypeError) as error:  # another server at this address
        raise LipcertClientError(f"the response is not from a Lipcert service: {error!r}") from error
