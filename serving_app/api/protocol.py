"""The lane's second entrance: uvicorn's protocol class, which answers a plain question by itself.

A hit costs less than what a server does for an ASGI application: a scope, a task, events, two
messages. So where uvicorn serves (``--http recserve_project.protocol:LaneProtocol``; ``manage.py
serve`` says so), a whole, ordinary request is looked at as it comes from the socket. If its answer
is at hand, it is given at once; if the question is in order, it is computed, as the lane does it.
All else is fed to uvicorn's own class, from its first byte, as if nobody had looked: half a
request, several at once, another path or method, chunks, ``Expect``, HTTP/1.0, a header that is
out of the ordinary, and every question that is not in order, or wants more than a plain answer.

What is looked at begins where a message may begin, and never within one: a body that reads like a
request is a body. While an answer is computed, what else comes is kept, unread, so that no answer
overtakes another; a client that goes takes its question back; a server that stops waits for it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from plugins import TokenNotValid
from serving_app import access, wiring
from serving_app.api.authentication import bearer
from serving_app.api.lane_hits import hit_answer
from serving_app.api.lane_http import JSON, POST_ALLOWS, Gone, encoded, is_usual
from serving_app.api.lane_replies import Aside, Reply, computed
from serving_app.api.lane_settings import LaneSettings, lane_settings
from serving_app.api.lane_waits import on_thread
from serving_app.api.patience import Patience
from serving_app.core.access import Access, digest
from serving_app.core.hit_path import Wanted
from serving_app.core.request_record import REQUEST_ID, RequestRecord, request_id

__all__ = ["LaneProtocol"]

_PATH = "/api/v1/predict"
_START = b"POST %b HTTP/1.1\r\n" % _PATH.encode()
_END = b"\r\n\r\n"
_LONGEST = 8192
"""Bytes of a head at most; one that is longer is uvicorn's."""
_HEADS = 1024
"""Heads remembered, by their digests: clients send the same again and again."""
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_DIGITS = re.compile(rb"[0-9]{1,9}").fullmatch
_ID = REQUEST_ID.lower().encode()
_SCHEME = b"x-forwarded-proto"


class _Head(NamedTuple):
    """What matters of a request's head that is in order."""

    length: int
    """Bytes of the body."""
    token: bytes
    """The bearer token's digest."""
    accept_encoding: bytes
    secure: bool
    """Whether the client came by HTTPS."""
    id: str | None
    """The request id that the client gave; None: it gave none."""


class _Asked(NamedTuple):
    """A plain question whose answer is not at hand."""

    wanted: Wanted
    granted: Access
    settings: LaneSettings
    head: _Head
    id: str
    started: float


class _Heads:
    """Reads heads, and remembers them.

    Args:
        settings: The lane's settings.
        secure: Whether the connection is encrypted.
        trusted: Whether its other end may say how the client came.
    """

    def __init__(self, settings: LaneSettings, *, secure: bool, trusted: bool) -> None:
        self.settings = settings
        self._secure = secure
        self._trusted = trusted
        self._known: dict[bytes, _Head | None] = {}

    def read(self, head: bytes) -> _Head | None:
        """Return what matters of a head, from its second line on; None: it is uvicorn's."""
        key = digest(head)  # it holds a token, which is kept nowhere
        try:
            return self._known[key]
        except KeyError:
            pass
        found = self._read(head)
        if found is None or found.id is None:  # an id is new each time
            if len(self._known) >= _HEADS:
                self._known.clear()
            self._known[key] = found
        return found

    def _read(self, head: bytes) -> _Head | None:
        headers = []
        for line in head.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if not colon or not _NAME(name) or _CONTROL(value):
                return None  # a continued line is one of them
            headers.append((name.lower(), value.strip(b" \t")))
        by_name = dict(headers)
        length = by_name.get(b"content-length", b"")
        scheme = by_name.get(_SCHEME) if self._trusted else None
        if (
            not is_usual({"method": "POST", "headers": headers}, by_name)
            or not _DIGITS(length)
            or int(length) > self.settings.limits.max_body_bytes
            or by_name.get(b"connection", b"keep-alive").lower() != b"keep-alive"
            or b"upgrade" in by_name
            or scheme not in {None, b"http", b"https"}
            or not self.settings.is_allowed(by_name.get(b"host"))
        ):
            return None
        secure = self._secure if scheme is None else scheme == b"https"
        try:
            token = bearer(by_name[b"authorization"])
        except TokenNotValid:
            return None
        if token is None or (self.settings.redirects and not secure):
            return None
        given = by_name.get(_ID)
        id_ = None if given is None else request_id(given.decode("latin-1"))
        accepted = by_name.get(b"accept-encoding", b"")
        return _Head(int(length), digest(token), accepted, secure, id_)


class _Fronts:
    """What answers begin with, up to the request's id, as bytes."""

    def __init__(self) -> None:
        self._servers: Any = None
        self._settings: LaneSettings | None = None
        self._fronts: dict[bool, bytes] = {}

    def front(
        self, servers: list[tuple[bytes, bytes]], settings: LaneSettings, *, secure: bool
    ) -> bytes:
        """Return status line and headers; the server's own come first, and change every second."""
        if servers is not self._servers or settings is not self._settings:
            self._servers, self._settings = servers, settings
            self._fronts.clear()
        front = self._fronts.get(secure)
        if front is None:
            ours = settings.headers(POST_ALLOWS, JSON, secure=secure)
            front = STATUS_LINE[200] + _lines([*servers, *ours]) + _ID + b": "
            self._fronts[secure] = front
        return front


_fronts = _Fronts()
_heads: dict[tuple[bool, bool], _Heads] = {}


def _heads_for(*, secure: bool, trusted: bool) -> _Heads:
    settings = lane_settings()
    found = _heads.get((secure, trusted))
    if found is None or found.settings is not settings:
        found = _heads[secure, trusted] = _Heads(settings, secure=secure, trusted=trusted)
    return found


class LaneProtocol(Patience, HttpToolsProtocol):  # type: ignore[misc]  # uvicorn is not followed
    """One connection. See the module."""

    aside: Aside = staticmethod(on_thread)
    """Runs what may wait, and returns what it returned."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._within = False
        """Whether the parser has begun a message, and not ended it."""
        self._answered = 0.0
        """When the last answer was given here, by the loop's clock."""
        self._held = b""
        """What came while an answer is computed."""
        self._stops = False
        """Whether the server stops, so that the answer that is computed is the last."""
        self._gone: asyncio.Future[None] | None = None
        """Ends with the connection; made for the first answer that is computed."""
        # What is out of the ordinary of a server is all uvicorn's.
        self._looks = not (self.limit_concurrency or self.root_path or self.access_log)

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        super().connection_made(transport)
        application = self.app
        self._trusted = (
            isinstance(application, ProxyHeadersMiddleware)
            and (self.client[0] if self.client else None) in application.trusted_hosts
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Take back what is computed for the client: it has gone."""
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close, once the answer that is computed has been given."""
        if self.answering:
            self._stops = True
        else:
            super().shutdown()

    def on_message_begin(self) -> None:
        """Note that what comes is part of a message."""
        self._within = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Look no more at a connection that may come to speak another protocol."""
        if self.parser.should_upgrade():
            self._looks = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the message is complete."""
        self._within = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Answer a plain question; hand everything else on."""
        if self.answering:
            self._held += data
            if len(self._held) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            return
        if (
            self._looks
            and not self._within
            and data.startswith(_START)
            and (self.cycle is None or self.cycle.response_complete)
            and not self.pipeline
            and not self.flow.write_paused
            and not self.transport.is_closing()
        ):
            answer = self._answer(data)
            if isinstance(answer, bytes):
                self.transport.write(answer)
                self._was_answered()
                return
            if answer is not None:
                self._compute(answer)
                return
        super().data_received(data)

    def _answer(self, data: bytes) -> bytes | _Asked | None:
        """Return the answer to a whole request that is a plain hit, or what it plainly asks."""
        started = time.perf_counter()
        end = data.find(_END, len(_START) - 2, _LONGEST)
        if end < len(_START) or not wiring.built():
            return None
        heads = _heads_for(secure=self.scheme == "https", trusted=self._trusted)
        settings = heads.settings
        head = heads.read(data[len(_START) : end]) if settings.on else None
        if head is None or len(data) != end + len(_END) + head.length:
            return None
        granted = access.remembered_digest(head.token)
        if granted is None:
            return None
        id_ = head.id or request_id(None)
        found = hit_answer(data[end + len(_END) :], granted, settings, id_, started)
        if isinstance(found, bytes):
            return self._message(Reply(200, found, JSON, {}), settings, head, id_)
        return None if found is None else _Asked(found, granted, settings, head, id_, started)

    def _message(
        self, reply: Reply, settings: LaneSettings, head: _Head, id_: str, last: bytes = b""
    ) -> bytes:
        """Return a whole answer as it goes over the wire."""
        status, kind = reply.status, reply.kind
        content, vary, more = encoded(reply.content, head.accept_encoding)
        servers = self.server_state.default_headers
        if status == 200:
            front = _fronts.front(servers, settings, secure=head.secure)
        else:
            ours = settings.headers(POST_ALLOWS, kind, secure=head.secure)
            front = STATUS_LINE[status] + _lines([*servers, *ours]) + _ID + b": "
        own = [(name.lower().encode(), text.encode("latin-1")) for name, text in reply.more.items()]
        return b"%b%b\r\n%bvary: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
            *(front, id_.encode(), _lines([*own, *more]), vary),
            *(len(content), last, content),
        )

    def _compute(self, asked: _Asked) -> None:
        """Let an answer be computed; until then nothing else is read."""
        self._unset_keepalive_if_required()
        self.answering = True
        if self._gone is None:
            self._gone = self.loop.create_future()
        task = self.loop.create_task(self._computed(asked, self._gone))
        self.tasks.add(task)  # a server that stops waits for it
        task.add_done_callback(self.tasks.discard)

    async def _computed(self, asked: _Asked, gone: asyncio.Future[None]) -> None:
        record = RequestRecord(asked.id, "POST", _PATH, started=asked.started, route=_PATH[1:])
        record.caller = asked.granted.subject
        try:
            reply = await computed(
                asked.wanted, asked.granted, asked.settings, record, gone, aside=self.aside
            )
        except Gone:
            return
        finally:
            self.answering = False
        if self.transport.is_closing():
            return
        last = b"connection: close\r\n" if self._stops else b""
        self.transport.write(self._message(reply, asked.settings, asked.head, asked.id, last))
        self._was_answered()
        held, self._held = self._held, b""
        self.flow.resume_reading()
        if self._stops:
            self.transport.close()
        elif held:
            self.data_received(held)

    def _was_answered(self) -> None:
        self.server_state.total_requests += 1
        self._answered = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch(self.timeout_keep_alive)

    def _watch(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, unless an answer was given here since the clock was set.

        Setting it anew for each would cost as much as the look-up in the cache.
        """
        left = self._answered + self.timeout_keep_alive - self.loop.time()
        if left > 0 and not self.transport.is_closing():
            self._watch(left)
        else:
            super().timeout_keep_alive_handler()


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % each for each in headers])
