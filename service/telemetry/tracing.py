"""Traces for OpenTelemetry, where the environment configures them; else nothing is even imported.

Configured by OpenTelemetry's own variables: ``OTEL_EXPORTER_OTLP_ENDPOINT`` or
``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` says where spans go (OTLP over HTTP), ``OTEL_SERVICE_NAME``,
``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_TRACES_SAMPLER`` and the others mean what its documentation says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.types import Scope

from lipmodel import __version__
from lipmodel.errors import MissingExtraError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class RequestSpan:
    """The span of one request."""

    def __init__(self, span: Span, method: str) -> None:
        self._span, self._method = span, method

    def end(self, route: str, status: int) -> None:
        """Tells what the request came to; names follow OpenTelemetry's conventions for HTTP servers."""
        from opentelemetry.trace import StatusCode

        self._span.update_name(f"{self._method} {route}")
        self._span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)


class Tracing:
    """Spans of requests, sent by a thread of the SDK in batches.

    Args:
        provider: of OpenTelemetry's SDK, with whatever exports.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("lipcert", __version__)

    @contextmanager
    def request(self, scope: Scope) -> Iterator[RequestSpan]:
        """A span while a request is answered, within the caller's trace where ``traceparent`` names one."""
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        method = scope["method"]
        with self._tracer.start_as_current_span(
            method,
            TraceContextTextMapPropagator().extract(carrier),
            SpanKind.SERVER,
            {"http.request.method": method, "url.path": scope["path"], "url.scheme": scope["scheme"]},
            record_exception=False,  # its message may quote an input
            set_status_on_exception=False,  # likewise
        ) as span:
            try:
                yield RequestSpan(span, method)
            except BaseException:
                span.set_status(StatusCode.ERROR)
                raise

    def close(self) -> None:
        """Sends what waits."""
        self._provider.shutdown()


def from_environment() -> Tracing | None:
    """Tracing as the environment configures it, or None where it does not.

    Raises:
        MissingExtraError: it does, and the packages are not installed.
    """
    if not any(map(os.environ.get, ENDPOINTS)) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        raise MissingExtraError("traces", "otel") from None
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "lipserve"}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
