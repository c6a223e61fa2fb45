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

import contextvars
import functools
import logging
import time
from typing import Any, NamedTuple

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cache_app.core.steps import Going
from cache_app.wiring import get_runner
from serving_app import access, wiring
from serving_app.api.lane_hits import Missed, hit_answer
from serving_app.api.lane_http import JSON, Gone
from serving_app.api.lane_replies import Reply, computing
from serving_app.api.lane_settings import LaneSettings
from serving_app.api.lane_waits import Aside, on_thread
from serving_app.api.lane_wire import Head, heads_for, message
from serving_app.api.patience import Patience
from serving_app.core.access import Access
from serving_app.core.request_record import RequestRecord, request_id

__all__ = ["LaneProtocol"]

logger = logging.getLogger(__name__)

_PATH = "/api/v1/predict"
_START = b"POST %b HTTP/1.1\r\n" % _PATH.encode()
_END = b"\r\n\r\n"
_LONGEST = 8192
"""Bytes of a head at most; one that is longer is uvicorn's."""


class _Asked(NamedTuple):
    """A plain question whose answer is not at hand."""

    missed: Missed
    granted: Access
    settings: LaneSettings
    head: Head
    id: str
    started: float


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
        self._going: Going | None = None
        """What computes an answer."""
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
        if self._going is not None:
            self._going.leave(Gone())
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
        heads = heads_for(secure=self.scheme == "https", trusted=self._trusted)
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
            return message(
                Reply(200, found, JSON, {}),
                head,
                settings=settings,
                servers=self.server_state.default_headers,
                id_=id_,
            )
        return None if found is None else _Asked(found, granted, settings, head, id_, started)

    def _compute(self, asked: _Asked) -> None:
        """Let an answer be computed; until then nothing else is read."""
        self._unset_keepalive_if_required()
        self.answering = True
        record = RequestRecord(asked.id, "POST", _PATH, started=asked.started, route=_PATH[1:])
        record.caller = asked.granted.subject
        steps = computing(asked.missed, asked.granted, asked.settings, record, aside=self.aside)
        then = functools.partial(self._computed, asked)
        # No task: that would be seven coroutines, two futures and three turns of the loop.
        self._going = Going(steps, then, get_runner().via, contextvars.copy_context())
        self._going.go_on()

    def _computed(self, asked: _Asked, reply: Reply, error: BaseException | None) -> None:
        """Give an answer, and read on."""
        self.answering, self._going = False, None
        if isinstance(error, Gone):
            return
        try:
            if error is not None:
                raise error
            answer = message(
                reply,
                asked.head,
                settings=asked.settings,
                servers=self.server_state.default_headers,
                id_=asked.id,
                closes=self._stops,
            )
        except BaseException:
            logger.exception("%s has no answer; the connection is closed", _PATH)
            self.transport.close()
            return
        if self.transport.is_closing():
            return
        self.transport.write(answer)
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
