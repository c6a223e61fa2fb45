"""The Open Inference Protocol at the lane: inference and health, without Django in between.

Who answers is `open_inference.door`, for Django's view as well. What may take a while, or ask a
database, is done on a thread: large bodies and answers, new tokens, models that are not live. An
inference that waits for its model holds none, and is taken out of the queue when its client goes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable
from typing import Any

from django.http import HttpRequest
from django.utils.cache import patch_vary_headers

from plugins import TokenNotValid
from serving_app import access, rates, request_log, wiring
from serving_app.api.answers import outgoing
from serving_app.api.authentication import bearer
from serving_app.api.body_limit import refuse
from serving_app.api.lane_http import ELSEWHERE, Gone, Receive, Scope, Send
from serving_app.api.lane_settings import LaneSettings, lane_settings
from serving_app.api.lane_waits import ended, on_thread
from serving_app.api.open_inference.answers import Answer
from serving_app.api.open_inference.door import (
    answer,
    begin,
    begin_at_once,
    finish,
    route_of,
)
from serving_app.api.open_inference.views import response_of
from serving_app.core.access import Access
from serving_app.core.request_record import (
    REQUEST_ID,
    RequestRecord,
    current,
    request_id,
    under_way,
)

__all__ = ["InferenceLane"]

_START = "/v2/"
_HEALTH = frozenset({"/v2/health/live", "/v2/health/ready"})
_INFER = re.compile(r"/v2/models/[^/]+(/versions/[0-9]+)?/infer").fullmatch
_ID = REQUEST_ID.lower().encode()
_HERE = ELSEWHERE - {b"content-encoding"}  # of a body; cookies would make an answer uncompressed
_SMALL = 16_384
"""Bytes of a body that the event loop reads itself."""


class InferenceLane:
    """Answers inference and health requests of the usual form, and gives others on.

    Args:
        application: Answers all else; it sees requests as they came.
        aside: Runs what may wait, and returns what it returned; None: on the lane's threads.
    """

    def __init__(
        self,
        application: Callable[[Scope, Receive, Send], Awaitable[None]],
        *,
        aside: Callable[[Callable[[], Any]], Awaitable[Any]] | None = None,
    ) -> None:
        self._application = application
        self._aside = on_thread if aside is None else aside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        headers = _usual(scope) if scope["type"] == "http" else None
        if headers is None:
            await self._application(scope, receive, send)
            return
        given = headers.get(_ID)
        record = RequestRecord(
            request_id(None if given is None else given.decode("latin-1")),
            *(scope["method"], scope["path"]),
            route=route_of(scope["path"]),
        )

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message = {**message, "headers": [*message["headers"], (_ID, record.id.encode())]}
            await send(message)

        token = under_way.set(record)
        try:
            await self._answer(scope, headers, receive, send_with_id)
        except Gone:
            pass
        finally:
            under_way.reset(token)
            request_log.finished(record)

    async def _answer(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        settings = lane_settings()
        limit = settings.limits.max_infer_bytes
        body = await _body(headers, receive, limit)
        if body is None:
            await refuse(send, limit, infers=True)
            return
        given = await self._given(scope, headers, body, receive)
        status, out, content = _outgoing(given, scope, headers, settings)
        await send({"type": "http.response.start", "status": status, "headers": out})
        await send({"type": "http.response.body", "body": content})

    async def _given(
        self, scope: Scope, headers: dict[bytes, bytes], body: bytes, receive: Receive
    ) -> Answer:
        """Return the answer to a whole request.

        Raises:
            Gone: The client has gone while its inference was waited for.
        """
        texts = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
        asked = scope["method"], scope["path"], texts, body
        authorization = headers.get(b"authorization")
        begun: Any
        if scope["path"] in _HEALTH:  # for which nobody is asked who asks
            return answer(*asked, lambda: None)
        if _is_at_hand(headers, body) and (known := _known(authorization)) is not None:
            begun = begin_at_once(*asked, known)
            if callable(begun):
                begun = await self._aside(begun)
        else:
            who = functools.partial(_who, authorization)
            begun = await self._aside(functools.partial(begin, *asked, who))
        if isinstance(begun, Answer):
            return begun
        try:
            gone = functools.partial(_disconnected, receive)
            await ended([begun.ended], begun.deadline, gone)
            finishing = functools.partial(finish, begun)
            given: Answer = finishing() if begun.is_small() else await self._aside(finishing)
        finally:
            begun.end()
        return given


def _usual(scope: Scope) -> dict[bytes, bytes] | None:
    """Return the headers of a request that is answered here; None: Django answers it."""
    path, method = scope["path"], scope["method"]
    if not path.startswith(_START):
        return None
    if not (method == "GET" and path in _HEALTH) and not (method == "POST" and _INFER(path)):
        return None
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0" if method == "GET" else b"")
    settings = lane_settings()
    usual = (
        settings.on
        and len(headers) == len(scope["headers"])
        and not scope.get("root_path")
        and _HERE.isdisjoint(headers)
        and length.isdigit()
        and len(length) < 19
        and (method == "POST" or length == b"0")
        and settings.is_allowed(headers.get(b"host"))
        and not (settings.redirects and scope.get("scheme") != "https")
        and wiring.built()
    )
    return headers if usual else None


async def _body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes | None:
    """Return the body, or None if it is, or says that it is, larger than allowed.

    Raises:
        Gone: The client does not send it all.
    """
    if int(headers.get(b"content-length", b"0")) > limit:
        return None
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Gone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    """Return when the client has closed its connection; the body was read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_at_hand(headers: dict[bytes, bytes], body: bytes) -> bool:
    """Return whether a request can be begun at once, if its caller is known."""
    return len(body) <= _SMALL and b"content-encoding" not in headers and not rates.shared()


def _known(authorization: bytes | None) -> Callable[[], Access | None] | None:
    """Return what says who a caller is without asking the database; None: that must be asked."""
    if authorization is None:
        return lambda: None
    try:
        token = bearer(authorization)
    except TokenNotValid:
        return functools.partial(_who, authorization)  # which says so, too
    granted = None if token is None else access.remembered(token)
    if token is not None and granted is None:
        return None
    return functools.partial(_noted, granted)


def _who(authorization: bytes | None) -> Access | None:
    """Return what a caller may do. It may ask the database."""
    token = None if authorization is None else bearer(authorization)
    return _noted(None if token is None else access.verify(token))


def _noted(granted: Access | None) -> Access | None:
    """Note in the request's record whose it is."""
    if granted is not None and (record := current()) is not None:
        record.caller = granted.subject
    return granted


def _outgoing(
    given: Answer, scope: Scope, headers: dict[bytes, bytes], settings: LaneSettings
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body as Django's middleware would let them go."""
    request = HttpRequest()
    request.method, request.path = scope["method"], scope["path"]
    accepted = headers.get(b"accept-encoding", b"").decode("latin-1")
    request.META = {"HTTP_ACCEPT_ENCODING": accepted}
    response = outgoing(request, response_of(given))
    patch_vary_headers(response, ("origin",))
    content = getattr(response, "content", b"")
    response.headers["Content-Length"] = str(len(content))
    guards = settings.guards(secure=scope.get("scheme") == "https")
    ours = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers.items()
    ]
    return response.status_code, [*ours, *guards], content
