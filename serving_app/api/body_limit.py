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
    """Wraps an ASGI application; ``/api/`` requests over the limit get 413.

    Django spools a whole body before a view sees it; a client could fill the disk.
    """

    def __init__(self, application: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._application(scope, receive, send)
            return
        limit = serving_settings().max_body_bytes
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            await refuse(send, limit)
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
            await refuse(send, limit)


async def refuse(send: Send, limit: int) -> None:
    """Answer 413, and end the connection."""
    body = msgspec.json.encode(
        with_request_id(
            problem(413, "body-too-large", f"The request body is larger than {limit} bytes.")
        )
    )
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
