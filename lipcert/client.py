"""Two clients of the service, for threads and for asyncio, that do the same.

::

    with Client("http://127.0.0.1:8000") as client:
        for answer in client.predict("two-moons", [[0.0, 1.0]], epsilon=0.1):
            print(answer.label if answer.certified else "nobody knows")

Connection errors, 429 and 503 are tried again, see :class:`Retries`, where sending twice is as sending
once; everything but starting a job is. Any other problem is raised at once, see :mod:`lipcert.errors`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import httpx

from lipcert import calls
from lipcert.calls import Call
from lipcert.errors import LipcertClientError, ServiceUnreachableError
from lipcert.results import Job, ModelSummary, Predictions
from lipcert.retries import Retries

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AsyncClient", "Client", "Retries"]

T = TypeVar("T")
Kind = Literal["audit", "evaluation"]
AGAIN = (429, 503)
POLL_SECONDS = 0.5


def _headers(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}


def _pause(
    call: Call[Any], retries: Retries, tried: int, outcome: httpx.Response | Exception
) -> float | None:
    """Seconds until the next try, or None where the outcome stands."""
    if isinstance(outcome, httpx.Response):
        if outcome.status_code not in AGAIN or not call.idempotent:
            return None
        return retries.wait(tried, outcome.headers.get("retry-after"))
    # A connection that could not be made has surely started nothing.
    return retries.wait(tried) if call.idempotent or isinstance(outcome, httpx.ConnectError) else None


class _Calls:
    """What both clients know."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries

    @staticmethod
    def _request(call: Call[Any]) -> dict[str, Any]:
        return {
            "method": call.method,
            "url": call.path,
            "content": call.content,
            "headers": call.headers,
            "params": call.query or None,
        }


class Client(_Calls):
    """A client for threads; may be shared by several, and keeps connections open.

    Args:
        url: where the service is, ``http://host:port``.
        api_key: a key or a JWT, sent as a bearer token.
        timeout: seconds that one try may take.
        retries: when to try again.
        transport: how requests are sent, where not over the network (tests).
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(retries or Retries())
        self._http = httpx.Client(
            base_url=url, headers=_headers(api_key), timeout=timeout, transport=transport
        )

    def predict(
        self,
        model: str,
        inputs: np.ndarray[Any, Any] | Sequence[Sequence[float]],
        *,
        norm: str | None = None,
        epsilon: float | None = None,
        npy: bool = False,
        **options: bool,
    ) -> Predictions:
        """Classifies (N, d) inputs, each with its certified radius in the input's units.

        Args:
            model: its name.
            inputs: flat rows, or an array of float32 or float64.
            norm: "1", "2" or "inf"; the model's own by default.
            epsilon: size of change that ``certified`` answers for.
            npy: sends an array as it is (application/x-npy): smaller and faster than JSON.
            options: ``tighten``, ``portable`` or ``certificate``, see the service's ``/docs``.

        Raises:
            ProblemError: the service refuses or fails.
            ServiceUnreachableError: it does not answer.
        """
        return self._send(calls.predict(model, inputs, norm=norm, epsilon=epsilon, options=options, npy=npy))

    def models(self) -> list[ModelSummary]:
        """Every model of the service, the refused ones too."""
        return self._send(calls.list_models())

    def model(self, name: str) -> dict[str, Any]:
        """What is proved of one model, as ``GET /v1/models/NAME`` says it."""
        return self._send(calls.show_model(name))

    def upload(self, name: str, content: bytes, *, force: bool = False) -> dict[str, Any]:
        """Serves an ONNX file under that name; with ``force`` even where clients of the name would break."""
        return self._send(calls.upload_model(name, content, force))

    def start(self, kind: Kind, model: str, parameters: Mapping[str, Any]) -> str:
        """Starts an audit or evaluation with the parameters that ``/docs`` lists; returns its id."""
        return self._send(calls.submit(kind, model, parameters))

    def job(self, kind: Kind, job_id: str) -> Job:
        """How it stands."""
        return self._send(calls.show_job(kind, job_id))

    def cancel(self, kind: Kind, job_id: str) -> Job:
        """Ends it."""
        return self._send(calls.cancel_job(kind, job_id))

    def wait(self, kind: Kind, job_id: str, *, seconds: float = 3600.0) -> Job:
        """The job once it has ended.

        Raises:
            TimeoutError: it has not in that time; it goes on.
        """
        end = time.monotonic() + seconds
        while not (job := self.job(kind, job_id)).ended:
            if time.monotonic() > end:
                raise TimeoutError(f"the {kind} {job_id} has not ended within {seconds:g} s")
            time.sleep(POLL_SECONDS)
        return job

    def close(self) -> None:
        """Closes the connections."""
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
                outcome = self._http.request(**self._request(call))
            except httpx.TransportError as error:
                outcome = error
            pause = _pause(call, self._retries, tried, outcome)
            if pause is None:
                return _final(call, outcome)
            time.sleep(pause)


class AsyncClient(_Calls):
    """The same for asyncio; arguments and errors are those of :class:`Client`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(retries or Retries())
        self._http = httpx.AsyncClient(
            base_url=url, headers=_headers(api_key), timeout=timeout, transport=transport
        )

    async def predict(
        self,
        model: str,
        inputs: np.ndarray[Any, Any] | Sequence[Sequence[float]],
        *,
        norm: str | None = None,
        epsilon: float | None = None,
        npy: bool = False,
        **options: bool,
    ) -> Predictions:
        """See :meth:`Client.predict`."""
        return await self._send(
            calls.predict(model, inputs, norm=norm, epsilon=epsilon, options=options, npy=npy)
        )

    async def models(self) -> list[ModelSummary]:
        """See :meth:`Client.models`."""
        return await self._send(calls.list_models())

    async def model(self, name: str) -> dict[str, Any]:
        """See :meth:`Client.model`."""
        return await self._send(calls.show_model(name))

    async def upload(self, name: str, content: bytes, *, force: bool = False) -> dict[str, Any]:
        """See :meth:`Client.upload`."""
        return await self._send(calls.upload_model(name, content, force))

    async def start(self, kind: Kind, model: str, parameters: Mapping[str, Any]) -> str:
        """See :meth:`Client.start`."""
        return await self._send(calls.submit(kind, model, parameters))

    async def job(self, kind: Kind, job_id: str) -> Job:
        """See :meth:`Client.job`."""
        return await self._send(calls.show_job(kind, job_id))

    async def cancel(self, kind: Kind, job_id: str) -> Job:
        """See :meth:`Client.cancel`."""
        return await self._send(calls.cancel_job(kind, job_id))

    async def wait(self, kind: Kind, job_id: str, *, seconds: float = 3600.0) -> Job:
        """See :meth:`Client.wait`."""
        async with asyncio.timeout(seconds):
            while not (job := await self.job(kind, job_id)).ended:
                await asyncio.sleep(POLL_SECONDS)
            return job

    async def close(self) -> None:
        """Closes the connections."""
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
                outcome = await self._http.request(**self._request(call))
            except httpx.TransportError as error:
                outcome = error
            pause = _pause(call, self._retries, tried, outcome)
            if pause is None:
                return _final(call, outcome)
            await asyncio.sleep(pause)


def _final(call: Call[T], outcome: httpx.Response | Exception) -> T:
    """What the last try came to.

    Raises:
        LipcertClientError: nothing good.
    """
    if not isinstance(outcome, httpx.Response):
        raise ServiceUnreachableError(f"no answer: {outcome or type(outcome).__name__}") from outcome
    try:
        return call.answer(outcome)
    except (ValueError, KeyError, TypeError) as error:  # of somebody else at that address
        raise LipcertClientError(f"the answer is none of this service: {error!r}") from error
