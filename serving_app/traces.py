"""Traces by OpenTelemetry: a span for each request, and in it those of what it waited for.

Nothing here runs, and nothing of OpenTelemetry is imported, unless `RECSERVE["TRACING"]` names a
receiver. Then the server's application is wrapped, and the recommender is one that tells; the doors
know nothing of it, but that they tell `request_log.finished` of each request.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from plugins import BatchTimes, Recommendation, RecommendationRequest, RecserveError
from serving_app import request_log
from serving_app.core.pending import Pending
from serving_app.core.recommender import Recommender
from serving_app.core.request_record import RequestRecord
from serving_app.trace_conf import TraceSettings, trace_settings

if TYPE_CHECKING:  # an extra
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

__all__ = ["Tracing", "get_tracing", "install", "stop", "traced"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

_HEADERS = {b"traceparent", b"tracestate"}
_lock = threading.Lock()
_tracing: Tracing | None = None


class Tracing:
    """What makes spans. Any thread, and the event loop, uses it.

    Args:
        provider: Samples spans, and sends them off.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self.tracer: Tracer = provider.get_tracer("recserve")
        self.recommender: Callable[..., Recommender] = functools.partial(
            _TracedRecommender, tracer=self.tracer
        )
        """Makes a recommender that tells what its answers waited for."""

    async def answer(
        self, application: Application, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let an application answer a request within a span; the answer names it."""
        from opentelemetry import context, trace  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _HEADERS
        }
        parent = TraceContextTextMapPropagator().extract(carrier, context=context.Context())
        span = self.tracer.start_span(scope["method"], context=parent, kind=trace.SpanKind.SERVER)
        own = span.get_span_context()
        header = (
            b"traceresponse",
            f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}".encode(),
        )

        async def send_with_trace(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        token = context.attach(trace.set_span_in_context(span, parent))
        try:
            await application(scope, receive, send_with_trace)
        except BaseException as error:
            span.record_exception(error)
            raise
        finally:
            context.detach(token)
            span.end()

    def finished(self, record: RequestRecord) -> None:
        """Say in the span under way what became of a request; without one, make one.

        There is none where no ASGI application was asked: under WSGI, or of a door of its own.
        """
        from opentelemetry import trace  # noqa: PLC0415

        span = trace.get_current_span()
        if span.get_span_context().is_valid:
            if span.is_recording():
                _describe(span, record)
            return
        now = time.time_ns()
        began = now - int((time.perf_counter() - record.started) * 1e9)
        span = self.tracer.start_span(record.method, kind=trace.SpanKind.SERVER, start_time=began)
        if span.is_recording():
            _describe(span, record)
        span.end(now)

    def close(self) -> None:
        """Send what is left, and end."""
        self._provider.shutdown()


def _describe(span: Span, record: RequestRecord) -> None:
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

    span.update_name(f"{record.method} {record.route}" if record.route else record.method)
    known: dict[str, str | int | None] = {
        "http.request.method": record.method,
        "http.route": record.route,
        "url.path": record.path,
        "http.response.status_code": record.status,
        "error.type": record.code,
        "recserve.request_id": record.id,
        "recserve.model": record.model,
        "recserve.version": record.version,
        "recserve.source": record.source,
    }
    for name, value in known.items():
        if value:
            span.set_attribute(name, value)
    if record.status >= 500 or not record.status:
        span.set_status(Status(StatusCode.ERROR, record.code or None))


class _TracedRecommender(Recommender):
    """A recommender that makes spans of what a traced request waits for."""

    def __init__(self, *args: Any, tracer: Tracer, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tracer = tracer

    def _find(self, key: str, request: RecommendationRequest, among: Any = None) -> Any:
        """Look up, within a span."""
        if not _is_traced():
            return super()._find(key, request, among)
        with self._tracer.start_as_current_span("cache look-up") as span:
            found = super()._find(key, request, among)
            span.set_attribute("recserve.level", "none" if found is None else found.level)
            return found

    def _outcome(
        self, request: RecommendationRequest, pending: Pending | RecserveError
    ) -> tuple[Recommendation | RecserveError, str | None, str]:
        """Tell of the batch that an answer was computed in.

        Whoever ran it says how long it was, and not when: it has ended just now, but for what
        ranking and waking took.
        """
        outcome = super()._outcome(request, pending)
        answer = outcome[0]
        if (
            _is_traced()
            and isinstance(pending, Pending)
            and isinstance(answer, Recommendation)
            and answer.source == "model"
            and pending.flight is not None
            and isinstance(pending.flight.note, BatchTimes)
        ):
            self._tell_batch(pending.flight.note)
        return outcome

    def _tell_batch(self, times: BatchTimes) -> None:
        ended = time.time_ns()
        began = ended - int(times.ran * 1e9)
        queued = self._tracer.start_span("queue", start_time=began - int(times.queued * 1e9))
        queued.end(began)
        ran = self._tracer.start_span("model", start_time=began)
        ran.set_attribute("recserve.batch_size", times.size)
        ran.end(ended)


def _is_traced() -> bool:
    """Return whether a request is under way that is traced: warm-up and renewals are not."""
    from opentelemetry import trace  # noqa: PLC0415

    return trace.get_current_span().is_recording()


# --- One process's ----------------------------------------------------------------------------


def traced(application: Application) -> Application:
    """Return an application that traces what the given one answers, if the settings say so.

    Else it is the given one itself.
    """
    if not trace_settings().endpoint and _tracing is None:
        return application

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        tracing = get_tracing() if scope["type"] == "http" else None
        if tracing is None:
            await application(scope, receive, send)
        else:
            await tracing.answer(application, scope, receive, send)

    return answer


def get_tracing() -> Tracing | None:
    """Return what makes this process's spans, built on first use; None: nothing is traced."""
    if _tracing is None:
        settings = trace_settings()
        if not settings.endpoint:
            return None
        with _lock:
            if _tracing is None:
                install(_built(settings))
    return _tracing


def install(tracing: Tracing) -> None:
    """Let this make the process's spans."""
    global _tracing  # noqa: PLW0603  (one per process)
    _tracing = tracing
    request_log.observe(tracing.finished)


def stop() -> None:
    """Send what is left, and trace no more until the next use."""
    global _tracing
    tracing, _tracing = _tracing, None
    request_log.observe(None)
    if tracing is not None:
        tracing.close()


def _built(settings: TraceSettings) -> Tracing:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.sample)),
        resource=Resource.create({"service.name": settings.service_name}),
        shutdown_on_exit=False,  # the server's end does
    )
    exporter = OTLPSpanExporter(
        endpoint=settings.endpoint, headers=dict(settings.headers), timeout=settings.timeout
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)
