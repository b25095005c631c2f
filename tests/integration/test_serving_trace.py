"""Trace context and spans of the model server, received by a real collector's HTTP endpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from serving_process import served

from engine.serving.front.trace import read_traceparent

pytestmark = pytest.mark.deep

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """Keeps the spans it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        import gzip

        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_request_is_a_span_of_its_callers_trace(tmp_path: Path, collector: Collector) -> None:
    url = f"http://127.0.0.1:{collector.server_port}"
    with served(tmp_path, env={"OTEL_EXPORTER_OTLP_ENDPOINT": url}) as server:
        body = {"prompt": "abc", "max_tokens": 7, "temperature": 0.5, "seed": 4}
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "r-1"}
        assert server.client.post("/v1/completions", json=body, headers=headers).status_code == 200
        unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        assert server.client.post("/generate", json={"prompt": "abc"}, headers=unsampled).status_code == 200
        late = {"x-airboss-deadline-ms": "0.001", "x-request-id": "r-2"}
        assert server.client.post("/v1/completions", json=body, headers=late).status_code == 504
        lines = {line["request_id"]: line for line in server.events("request")}
    # The server has ended: what it had left it has sent.
    by_id = {attributes(span)["airboss.request_id"]: span for span in collector.spans}
    assert by_id.keys() == {"r-1", "r-2"}
    span = by_id["r-1"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert lines["r-1"]["trace_id"] == TRACE and lines["r-1"]["span_id"] == span.span_id.hex()
    seen = attributes(span)
    assert (
        seen.items()
        >= {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.request.model": "chat",
            "gen_ai.request.max_tokens": 7,
            "gen_ai.request.seed": 4,
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 7,
            "http.response.status_code": 200,
        }.items()
    )
    events = [(event.name, event.time_unix_nano) for event in span.events]
    assert [name for name, _ in events] == ["queue", "prefill", "decode"]
    assert span.start_time_unix_nano <= events[1][1] <= events[2][1] <= span.end_time_unix_nano
    failed = by_id["r-2"]
    assert attributes(failed)["error.type"] == "deadline_exceeded"
    assert not failed.parent_span_id


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_collector_that_is_not_there_costs_no_request(tmp_path: Path) -> None:
    with served(tmp_path, serving={"otlp_endpoint": "http://127.0.0.1:9"}) as server:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        for _ in range(3):
            assert server.client.post("/generate", json={"prompt": "abc"}, headers=headers).status_code == 200
        ended = time.monotonic()
    assert time.monotonic() - ended < 10
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    "header",
    [None, "", "junk", f"00-{TRACE}-{PARENT}", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01",
     f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01-more"],
)  # fmt: skip
def test_a_traceparent_that_cannot_be_read_is_as_none(header: str | None) -> None:
    assert read_traceparent(header) is None


def test_a_traceparent_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    context = read_traceparent(f"01-{TRACE}-{PARENT}-03-more", "vendor=x")
    assert context is not None
    assert (context.trace_id, context.parent_id, context.is_sampled, context.state) == (TRACE, PARENT, True, "vendor=x")
