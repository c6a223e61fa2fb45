"""Server-sent events: streams that end by themselves, and at once when the server stops.

A server that is told to stop waits for the answers under way; a stream would keep it waiting.
Nothing tells an application in time (its life span ends after its answers), so the signals are
listened to, before the server's own handlers get them.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from types import FrameType
from typing import Any

from django.http import StreamingHttpResponse

__all__ = ["MOST", "TooManyStreams", "end_streams", "listen", "stream"]

MOST = 50
"""Streams of a process at a time."""
STREAM_SECONDS = 60.0
"""How long one lasts; the browser then opens another, maybe with another process."""

_open: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
_stopping = False


class TooManyStreams(Exception):
    """As many are open as may be."""


def stream(
    event: Callable[[], Awaitable[str]], *, every: float, lasts: float = STREAM_SECONDS
) -> StreamingHttpResponse:
    """Return a response that sends an event now and then. Called in an event loop.

    Args:
        event: Returns the next event's data, in one line; empty: there is none.
        every: Seconds between two.
        lasts: Seconds after which the stream ends.

    Raises:
        TooManyStreams: `MOST` are open.
    """
    if len(_open) >= MOST:
        raise TooManyStreams
    response = StreamingHttpResponse(
        _events(event, every, lasts), content_type="text/event-stream; charset=utf-8"
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # proxies must not wait for more
    return response


async def _events(
    event: Callable[[], Awaitable[str]], every: float, lasts: float
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    _open[ended] = loop
    try:
        end = loop.time() + lasts
        yield b"retry: 1000\n\n"
        while not (_stopping or ended.is_set()) and loop.time() < end:
            data = await event()
            yield f"data: {data}\n\n".encode() if data else b": nothing new\n\n"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), every)
    finally:
        _open.pop(ended, None)


def end_streams() -> None:
    """Let every stream of this process end now. Any thread, or a signal handler, calls it."""
    for ended, loop in list(_open.items()):
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(ended.set)


def listen() -> None:
    """End every stream, and open no more, when this process is told to stop.

    What handled the signals goes on to. Called in the main thread; in another it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        if callable(before):
            signal.signal(number, _ending(before))


def _ending(before: Callable[[int, FrameType | None], Any]) -> Callable[..., None]:
    def handle(number: int, frame: FrameType | None) -> None:
        global _stopping  # noqa: PLW0603  (one process stops once)
        _stopping = True
        end_streams()
        before(number, frame)

    return handle
