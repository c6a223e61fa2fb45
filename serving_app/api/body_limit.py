"""Refuses bodies that are too large before they are read: ASGI, in front of Django."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from serving_app.api.problems import CONTENT_TYPE, problem, with_request_id
from serving_app.conf import serving_settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _TooLarge(Exception):
    """A body of undeclared length has exceeded the limit."""


class BodyLimit:
    """Wraps an ASGI application; requests to ``/api/`` and ``/v2/`` over their limits get 413.

    Django spools a whole body before a view sees it; a client could fill the disk.
    """

    def __init__(self, application: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        infers = scope["type"] == "http" and scope["path"].startswith("/v2/")
        if scope["type"] != "http" or not (infers or scope["path"].startswith("/api/")):
            await self._application(scope, receive, send)
            return
        settings = serving_settings()
        limit = settings.max_infer_bytes if infers else settings.max_body_bytes
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            await refuse(send, limit, infers=infers)
            return
        read = 0

        async def receive_bounded() -> MutableMapping[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise _TooLarge
            return message

        try:
            await self._application(scope, receive_bounded, send)
        except _TooLarge:  # Django reads the whole body before it answers
            await refuse(send, limit, infers=infers)


async def refuse(send: Send, limit: int, *, infers: bool = False) -> None:
    """Answer 413, and end the connection."""
    detail = f"The request body is larger than {limit} bytes."
    problem_ = with_request_id(problem(413, "body-too-large", detail))
    body = msgspec.json.encode({"error": detail} if infers else problem_)
    headers = [
        (b"content-type", b"application/json" if infers else CONTENT_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
