"""Traces: a span for each request and what it waited for, sent to whoever the settings name."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
from asgiref.sync import async_to_sync
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serving_app import request_log, traces, wiring
from serving_app.api.body_limit import BodyLimit
from serving_app.api.lane import Lane
from serving_app.api.request_ids import RequestIds
from serving_app.core.recommender import Recommender
from serving_app.trace_conf import trace_settings
from serving_app.traces import Tracing, traced
from tests.serving_app.api.test_lane import Client, aside

pytestmark = [
    pytest.mark.contract("A8"),
    pytest.mark.usefixtures("connection_of_the_test"),
]

PREDICT = "/api/v1/predict"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = [
    (b"host", b"localhost"),
    (b"content-type", b"application/json"),
    (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode()),
]

RECEIVER = """
import http.server, sys
class Receive(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        heads = self.headers.get("x-key"), self.headers["content-type"]
        print(self.path, *heads, body.hex(), flush=True)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Receive)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def spans():
    """The spans that ended, as long as the fixture lives."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces.install(Tracing(provider))
    yield exporter
    traces.stop()


@pytest.fixture
def ask(spans, live_model, client_as):
    """Asks through the lane, then Django; returns status, headers, and the spans of the request."""
    operator = client_as("operate")._credentials["HTTP_AUTHORIZATION"].encode()
    door = Client(traced(Lane(RequestIds(BodyLimit(get_asgi_application())), aside=aside)))

    def ask(body, *more, path=PREDICT, method="POST"):
        spans.clear()
        content = json.dumps(body).encode()
        length = (b"content-length", str(len(content)).encode())
        headers = [*HEADERS, length, (b"authorization", operator), *more]
        status, given, _ = async_to_sync(door.ask)(method, path, headers, content)
        return status, dict(given), {span.name: span for span in spans.get_finished_spans()}

    return ask


QUESTION = {"user_id": "ann", "features": [1, 2, 3]}


@pytest.mark.parametrize("door", [(), ((b"cookie", b"a=b"),)], ids=["the lane", "django"])
def test_a_request_is_a_span_with_what_it_waited_for_below(ask, door):
    status, headers, named = ask(QUESTION, *door)
    assert status == 200
    assert named.keys() == {f"POST {PREDICT[1:]}", "cache look-up", "queue", "model"}
    whole = named[f"POST {PREDICT[1:]}"]
    assert (whole.kind, whole.parent.span_id) == (SpanKind.SERVER, int(PARENT, 16))
    assert {f"{span.context.trace_id:032x}" for span in named.values()} == {TRACE}
    assert headers["traceresponse"] == f"00-{TRACE}-{whole.context.span_id:016x}-01"
    told = whole.attributes
    assert (told["http.route"], told["http.response.status_code"]) == (PREDICT[1:], 200)
    assert (told["recserve.model"], told["recserve.version"]) == ("default", 1)
    assert told["recserve.source"] == "model"
    assert told["recserve.request_id"] == headers["x-request-id"]
    for name in ("cache look-up", "queue", "model"):
        assert named[name].parent.span_id == whole.context.span_id
        assert named[name].start_time <= named[name].end_time <= whole.end_time
    assert named["queue"].end_time == named["model"].start_time
    assert named["model"].attributes["recserve.batch_size"] == 1
    assert named["cache look-up"].attributes["recserve.level"] == "none"

    _, _, hit = ask(QUESTION, *door)
    assert "model" not in hit
    assert hit[f"POST {PREDICT[1:]}"].attributes["recserve.source"] == "l1"


def test_a_problem_is_named_and_an_error_of_ours_marked(ask):
    _, _, named = ask({"user_id": "ann", "features": [1]})
    span = named[f"POST {PREDICT[1:]}"]
    assert span.attributes["http.response.status_code"] == 422
    assert span.attributes["error.type"] == "invalid-input"
    assert span.status.status_code == StatusCode.UNSET
    _, _, named = ask({}, path="/no/such/path")
    assert "POST" in named, "a path that is none of ours names no span"


def test_a_request_that_is_not_to_be_sampled_is_not(ask, spans):
    headers = [each for each in HEADERS if each[0] != b"traceparent"]
    unsampled = (b"traceparent", f"00-{TRACE}-{PARENT}-00".encode())
    HEADERS[:], kept = [*headers, unsampled], HEADERS[:]
    try:
        status, given, named = ask(QUESTION)
    finally:
        HEADERS[:] = kept
    assert (status, named) == (200, {})
    assert given["traceresponse"].endswith("-00")


def test_under_wsgi_a_request_has_a_span_of_its_own(spans, live_model, client_as):
    answer = client_as("predict").post(PREDICT, QUESTION, format="json")
    assert answer.status_code == 200
    (span,) = (each for each in spans.get_finished_spans() if each.kind == SpanKind.SERVER)
    assert (span.name, span.parent) == (f"POST {PREDICT[1:]}", None)
    assert span.attributes["recserve.source"] == "model"


def test_without_an_access_log_requests_are_told_of_all_the_same(spans, caplog):
    with caplog.at_level(logging.WARNING, "recserve.access"):
        assert request_log.is_logged()
        traces.stop()
        assert not request_log.is_logged()


def test_off_nothing_is_wrapped(live_model):
    async def application(scope, receive, send):
        raise NotImplementedError

    assert traced(application) is application
    assert type(wiring.get_recommender()) is Recommender


def test_spans_reach_a_receiver(live_model, client_as, settings):
    with subprocess.Popen(
        [sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True
    ) as receiver:
        try:
            port = int(receiver.stdout.readline())
            settings.RECSERVE = {
                **settings.RECSERVE,
                "TRACING": {
                    "ENDPOINT": f"http://127.0.0.1:{port}/v1/traces",
                    "HEADERS": {"x-key": "secret"},
                    "SERVICE_NAME": "shop",
                },
            }
            assert traces.get_tracing() is not None
            client_as("predict").post(PREDICT, QUESTION, format="json")
            traces.stop()
            path, key, kind, body = receiver.stdout.readline().split()
        finally:
            receiver.kill()
    assert (path, key, kind) == ("/v1/traces", "secret", "application/x-protobuf")
    (of_one,) = ExportTraceServiceRequest.FromString(bytes.fromhex(body)).resource_spans
    attributes = {each.key: each.value.string_value for each in of_one.resource.attributes}
    assert attributes["service.name"] == "shop"
    names = {span.name for scope in of_one.scope_spans for span in scope.spans}
    assert f"POST {PREDICT[1:]}" in names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ENDPOINT": "127.0.0.1:4318"}, "must be an address such as"),
        ({"ENDPOINT": 1}, "must be an address such as"),
        ({"SAMPLE": 1.5}, "at most 1"),
        ({"TIMEOUT": 0}, "positive number"),
        ({"HEADERS": {"a": 1}}, "names to texts"),
        ({"END_POINT": ""}, "ENDPOINT"),
    ],
)
def test_wrong_settings_are_refused(settings, given, message):
    settings.RECSERVE = {"TRACING": given}
    with pytest.raises(ImproperlyConfigured, match=message):
        trace_settings()
