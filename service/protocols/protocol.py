"""A protocol as a pair of functions: requests to decoded inputs, and answers to bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import NamedTuple

from service.inference.pipeline import Answers, PredictionPipeline
from service.inference.request import DecodedRequest
from service.models.registry import Model
from service.protocols.bodies import check_media_type
from service.wire import Header, Headers


class Payload(NamedTuple):
    """A request as sent; its body is complete, and no longer compressed."""

    headers: Headers
    query: Mapping[str, str]
    body: bytes


class Codec(NamedTuple):
    """Decoder of requests and encoder of responses of one protocol.

    Attributes:
        media_types: of requests.
        decode: takes a payload, the limit on rows and the model; raises Problem or InputError for an invalid
            request.
        encode: returns the body of a response, and the headers that describe it; raises likewise.
        default_media_type: of a request without Content-Type; None refuses it.
    """

    media_types: tuple[str, ...]
    decode: Callable[[Payload, int, Model], DecodedRequest]
    encode: Callable[[Answers], tuple[bytes, list[Header]]]
    default_media_type: str | None = None

    def check_media_type(self, headers: Headers) -> None:
        """Raise a 415 unless the protocol has requests of this media type."""
        check_media_type(headers, *self.media_types, missing=self.default_media_type)

    def response(self, pipeline: PredictionPipeline, answers: Answers) -> tuple[bytes, list[Header]]:
        """Encode answers; return the body of the response and the headers that describe it."""
        begun = perf_counter()
        encoded = self.encode(answers)
        pipeline.metrics.write_seconds.observe(perf_counter() - begun)
        return encoded
