"""Request ids at the door: in, out, and a line in the access log. ASGI, and Django's middleware.

Under ASGI the wrapper sees every answer, also those that Django never hears of; under WSGI, and in
tests, the middleware does the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from serving_app import request_log
from serving_app.core.request_record import (
    REQUEST_ID,
    RequestRecord,
    current,
    request_id,
    under_way,
)

__all__ = ["RequestIds", "request_ids"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_HEADER = REQUEST_ID.lower().encode()
_META = "HTTP_" + REQUEST_ID.upper().replace("-", "_")


class RequestIds:
    """Wraps an ASGI application; every HTTP answer carries its request's id."""

    def __init__(self, application: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        record = RequestRecord(request_id(given.decode("latin-1")), scope["method"], scope["path"])
        header = (_HEADER, record.id.encode())

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        token = under_way.set(record)
        try:
            await self._application(scope, receive, send_with_id)
        finally:
            under_way.reset(token)
            request_log.finished(record)


@sync_and_async_middleware
def request_ids(get_response: Any) -> Any:
    """Return Django's middleware; it keeps to the record that the ASGI wrapper began."""
    if iscoroutinefunction(get_response):

        async def answer_async(request: HttpRequest) -> HttpResponseBase:
            record = current()
            if record is not None:
                response: HttpResponseBase = await get_response(request)
                return _noted(record, request, response)
            record, token = _begin(request)
            try:
                return _ended(record, request, await get_response(request))
            finally:
                under_way.reset(token)
                request_log.finished(record)

        return answer_async

    def answer(request: HttpRequest) -> HttpResponseBase:
        record = current()
        if record is not None:
            return _noted(record, request, get_response(request))
        record, token = _begin(request)
        try:
            return _ended(record, request, get_response(request))
        finally:
            under_way.reset(token)
            request_log.finished(record)

    return answer


def _begin(request: HttpRequest) -> tuple[RequestRecord, Any]:
    record = RequestRecord(request_id(request.META.get(_META)), request.method or "", request.path)
    return record, under_way.set(record)


def _noted(
    record: RequestRecord, request: HttpRequest, response: HttpResponseBase
) -> HttpResponseBase:
    match = request.resolver_match
    if not record.route:  # a view may know better
        record.route = str(match.route) if match else ""
    return response


def _ended(
    record: RequestRecord, request: HttpRequest, response: HttpResponseBase
) -> HttpResponseBase:
    record.status = response.status_code
    response[REQUEST_ID] = record.id
    return _noted(record, request, response)
