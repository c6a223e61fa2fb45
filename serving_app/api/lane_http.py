"""One request that the lane answers, and its answer: headers in, headers out."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

from serving_app import wiring
from serving_app.api.answers import COMPRESS_ABOVE, accepts_gzip, compress
from serving_app.api.body_limit import refuse
from serving_app.api.lane_settings import Header, LaneSettings, lane_settings
from serving_app.core.pending import Looked
from serving_app.core.request_record import REQUEST_ID, RequestRecord, request_id

__all__ = [
    "BATCH",
    "ELSEWHERE",
    "JSON",
    "LIVE",
    "POST_ALLOWS",
    "PREDICT",
    "READY",
    "BodyTooLarge",
    "Exchange",
    "Gone",
    "encoded",
    "is_usual",
]


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PREDICT, BATCH = "/api/v1/predict", "/api/v1/predict/batch"
LIVE, READY = "/api/v1/health/live", "/api/v1/health/ready"
_METHODS = {PREDICT: "POST", BATCH: "POST", LIVE: "GET", READY: "GET"}
POST_ALLOWS = "POST, OPTIONS"
_ALLOW = {"POST": POST_ALLOWS, "GET": "GET, HEAD, OPTIONS"}
_NOTHING: Mapping[str, str] = {}
JSON = b"application/json"
_ID = REQUEST_ID.lower().encode()
_ACCEPTED = frozenset({b"*/*", JSON})
ELSEWHERE = frozenset(
    {
        *(b"origin", b"cookie", b"transfer-encoding", b"content-encoding", b"expect"),
        *(b"if-none-match", b"access-control-request-method"),
    }
)
"""Headers of requests that Django answers."""


class Gone(Exception):
    """The client has closed its connection."""


class BodyTooLarge(Exception):
    """The body exceeds the limit."""


class Exchange:
    """One request and its answer. The event loop's thread uses it."""

    __slots__ = (
        *("_first", "_record", "headers", "id", "looked", "may_hit", "method", "path", "receive"),
        *("secure", "send", "settings", "started"),
    )

    def __init__(
        self,
        scope: Scope,
        headers: dict[bytes, bytes],
        settings: LaneSettings,
        receive: Receive,
        send: Send,
    ) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.secure = scope.get("scheme") == "https"
        self.headers = headers
        self.settings = settings
        self.receive = receive
        self.send = send
        self.started = time.perf_counter()
        given = headers.get(_ID)
        self.id = request_id(None if given is None else given.decode("latin-1"))
        self._record: RequestRecord | None = None
        self._first: MutableMapping[str, Any] | None = None
        self.looked: Looked | None = None
        """A look into the cache that found no fresh answer."""
        self.may_hit = self.path == PREDICT

    @property
    def record(self) -> RequestRecord:
        """The request's record, made when it is first wanted: a hit does without."""
        if self._record is None:
            self._record = RequestRecord(
                self.id, self.method, self.path, started=self.started, route=self.path[1:]
            )
        return self._record

    @classmethod
    def of(cls, scope: Scope, receive: Receive, send: Send) -> Exchange | None:
        """Return the exchange, if the request is one that the lane answers; None: Django does."""
        if _METHODS.get(scope["path"]) != scope["method"]:
            return None
        headers: dict[bytes, bytes] = dict(scope["headers"])
        settings = lane_settings()
        if (
            settings.on
            and is_usual(scope, headers)
            and settings.is_allowed(headers.get(b"host"))
            and not (settings.redirects and scope.get("scheme") != "https")
            and wiring.built()
        ):
            return cls(scope, headers, settings, receive, send)
        return None

    async def body_in_one(self) -> bytes | None:
        """Return the request's body, if its first message is all of it; else `body` reads it."""
        if int(self.headers[b"content-length"]) > self.settings.limits.max_body_bytes:
            return None  # and is not waited for
        self._first = message = await self.receive()
        if message["type"] != "http.request" or message.get("more_body", False):
            return None
        body: bytes = message.get("body", b"")
        return body if len(body) <= self.settings.limits.max_body_bytes else None

    async def body(self) -> bytes:
        """Return the request's body.

        Raises:
            BodyTooLarge: It is, or says that it is.
            Gone: The client does not send it all.
        """
        limit = self.settings.limits.max_body_bytes
        if int(self.headers[b"content-length"]) > limit:
            raise BodyTooLarge
        message = await self.receive() if self._first is None else self._first
        body: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body", False):
            if len(body) > limit:
                raise BodyTooLarge
            return body
        parts, size = [body], len(body)
        while message["type"] == "http.request" and message.get("more_body", False):
            message = await self.receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise BodyTooLarge
        if message["type"] != "http.request":
            raise Gone
        return b"".join(parts)

    async def disconnected(self) -> None:
        """Return when the client has closed its connection; the body was read before."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def refuse_body(self) -> None:
        """Answer that the body is too large."""
        self.record.status = 413
        await refuse(self._send_with_id, self.settings.limits.max_body_bytes)

    async def _send_with_id(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            header = (_ID, self.id.encode())
            message = {**message, "headers": [*message["headers"], header]}
        await self.send(message)

    async def answer(
        self,
        content: bytes,
        *,
        status: int,
        kind: bytes = JSON,
        more: Mapping[str, str] = _NOTHING,
    ) -> None:
        """Send an answer with all the headers that Django's door gives it.

        Args:
            content: The body, before any compression.
            status: The status.
            kind: The media type.
            more: Headers of this answer alone.
        """
        out: list[Header] = [
            *self.settings.headers(_ALLOW[self.method], kind, secure=self.secure),
            (_ID, self.id.encode()),
        ]
        if more:
            out += [(name.lower().encode(), text.encode("latin-1")) for name, text in more.items()]
        content, vary, encoding = encoded(content, self.headers.get(b"accept-encoding", b""))
        out += [*encoding, (b"vary", vary), (b"content-length", b"%d" % len(content))]
        await self.send({"type": "http.response.start", "status": status, "headers": out})
        await self.send({"type": "http.response.body", "body": content})


def encoded(content: bytes, accept_encoding: bytes) -> tuple[bytes, bytes, Sequence[Header]]:
    """Return a body as it is sent, its ``Vary``, and the headers that say how it is compressed."""
    if len(content) < COMPRESS_ABOVE:
        return content, b"Accept, origin", ()
    vary = b"Accept, Accept-Encoding, Cookie, origin"
    if not accepts_gzip(accept_encoding.decode("latin-1")):
        return content, vary, ()
    return compress(content), vary, ((b"content-encoding", b"gzip"),)


def is_usual(scope: Mapping[str, Any], headers: dict[bytes, bytes]) -> bool:
    """Return whether nothing about a request is out of the ordinary."""
    if (
        len(headers) != len(scope["headers"])  # one is there twice
        or scope.get("query_string")
        or scope.get("root_path")
        or not ELSEWHERE.isdisjoint(headers)
        or headers.get(b"accept", b"*/*") not in _ACCEPTED
    ):
        return False
    if scope["method"] == "GET":
        return headers.get(b"content-length", b"0") == b"0"
    kind = headers.get(b"content-type", b"")
    return (
        (kind == JSON or kind.partition(b";")[0] == JSON)
        and headers.get(b"authorization", b"")[:7].lower() == b"bearer "
        and headers.get(b"content-length", b"").isdigit()
    )
