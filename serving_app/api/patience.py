"""How long the server waits for a client that sends slowly: uvicorn itself waits for ever.

A client that opens connections and sends a byte now and then would hold them all (slowloris). So
each connection is looked at once a second, whatever it sends in between; requests pay nothing.

uvicorn imports this before the application, and so before Django is set up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["Patience", "PatientProtocol", "SlowConnections"]

_EVERY = 1.0
"""Seconds between two looks."""


class SlowConnections:
    """The connections of this process, and since when each is waited for. One thread uses it.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[Any, tuple[object, float]] = {}
        self._looking = False

    def __len__(self) -> int:
        return len(self._since)

    def add(self, connection: Any) -> None:
        """Watch a connection from now on."""
        self._since[connection] = (None, self._clock())
        if not self._looking:
            self._looking = True
            connection.loop.call_later(_EVERY, self._look, connection.loop)

    def discard(self, connection: Any) -> None:
        """Watch a connection no more: it is closed."""
        self._since.pop(connection, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self.sweep()
        self._looking = bool(self._since)
        if self._looking:
            loop.call_later(_EVERY, self._look, loop)

    def sweep(self) -> None:
        """Close the connections that have been waited for too long."""
        from serving_app.conf import serving_settings  # noqa: PLC0415  (see above)

        now, settings = self._clock(), serving_settings()
        for connection, (known, since) in list(self._since.items()):
            waits, seconds = _waited_for(connection, settings)
            if waits is _NOTHING or waits is not known:
                self._since[connection] = (waits, now if known is not None else since)
            elif now - since >= seconds:
                self.discard(connection)
                _close(connection, seconds)


_NOTHING, _HEAD = object(), object()


def _waited_for(connection: Any, settings: Any) -> tuple[object, float]:
    """Return what a connection is waited for, the request itself for its body, and how long."""
    cycle = connection.cycle
    if connection.answering:
        return _NOTHING, 0.0
    if cycle is None or cycle.response_complete:
        if connection.timeout_keep_alive_task is not None:
            return _NOTHING, 0.0  # between two requests; uvicorn closes it in time
        return _HEAD, settings.head_seconds
    if not cycle.more_body:
        return _NOTHING, 0.0  # it waits for us
    path = cycle.scope["path"]
    api = path.startswith(("/api/", "/v2/"))
    return cycle, settings.body_seconds if api else settings.upload_seconds


def _close(connection: Any, seconds: float) -> None:
    from serving_app.api.problems import CONTENT_TYPE, problem  # noqa: PLC0415  (see above)

    cycle = connection.cycle
    if cycle is not None and not cycle.response_complete and not cycle.response_started:
        detail = f"The request body was not there after {seconds:g} s."
        body = msgspec.json.encode(problem(408, "request-timeout", detail))
        head = (
            "HTTP/1.1 408 Request Timeout\r\n"
            f"content-type: {CONTENT_TYPE}\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        connection.transport.write(head.encode() + body)
    connection.transport.close()


_slow = SlowConnections()


class Patience:
    """What a protocol class of uvicorn's is given so that its patience ends; comes before it."""

    answering = False
    """Whether a request is being answered of which uvicorn knows nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take a connection, and watch it."""
        super().connection_made(transport)  # type: ignore[misc]  # of the class beside it
        _slow.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let it go."""
        _slow.discard(self)
        super().connection_lost(exc)  # type: ignore[misc]


class PatientProtocol(Patience, AutoHTTPProtocol):  # type: ignore[misc]  # it is chosen at run time
    """uvicorn's protocol, whichever is installed, with an end to its patience."""
