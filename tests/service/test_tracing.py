"""Traces, as a collector receives them: OTLP over HTTP."""

import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest

from service.telemetry import tracing
from tests.service.conftest import lipserve, url_of

pytest.importorskip("opentelemetry.sdk", reason="pip install 'lipcert[otel]'")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector():
    """URL of a collector, and the spans that it received with the names of their services."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = [
                    a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
                ]
                spans.extend((names[0], span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()
        thread.join()


def attributes(span):
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


def test_each_request_is_a_span_of_its_callers_trace(models, collector):
    endpoint, spans = collector
    with lipserve("--models", models, "--port", 0, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as process:
        url = url_of(process) + "/v1/models/two-moons/predict"
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert httpx.post(url, json={"inputs": [[0.5, 0.25]]}, headers=headers).status_code == 200
        headers = {"traceparent": "nonsense"}
        assert httpx.post(url, json={"inputs": [["secret"]]}, headers=headers).status_code == 422
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert [name for name, _ in spans] == ["lipserve", "lipserve"]
    (_, good), (_, bad) = spans
    assert good.name == bad.name == "POST /v1/models/{name}/predict"
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, PARENT)
    assert bad.trace_id.hex() != TRACE
    assert not bad.parent_span_id
    assert attributes(good)["http.response.status_code"] == 200
    assert attributes(bad)["http.response.status_code"] == 422
    assert good.end_time_unix_nano > good.start_time_unix_nano
    assert "secret" not in str(spans)


def test_a_fault_is_an_error_without_its_message():
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces = tracing.Tracing(provider)
    scope = {"method": "POST", "path": "/x", "scheme": "http", "headers": []}
    with traces.request(scope) as span:
        span.end("/{x}", 500)
    with pytest.raises(ValueError, match="secret"), traces.request(scope):
        raise ValueError("secret")
    traces.close()
    told = exporter.get_finished_spans()
    assert [span.status.is_ok for span in told] == [False, False]
    assert "secret" not in "".join(span.to_json() for span in told)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nothing_is_traced_unless_configured(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracing.from_environment() is None


def test_a_missing_extra_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(tracing.MissingExtraError, match=r"lipcert\[otel\]"):
        tracing.from_environment()
