"""How the event loop waits: for a thread, or for computations, unless the client goes first."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import close_old_connections

from cache_app.core.steps import Steps
from cache_app.wiring import get_runner
from serving_app.api.lane_http import Gone
from serving_app.core.pending import Pending, Rest

__all__ = ["Aside", "landed", "on_thread", "taken", "together"]

Result = TypeVar("Result")

Aside = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs what may wait, and returns what it returned."""

_THREADS = 16
"""For what waits: feature sources, fallbacks, tokens that are new."""


async def landed(
    pendings: Sequence[Pending],
    disconnected: asyncio.Future[Any] | Coroutine[Any, Any, None],
) -> None:
    """Wait until answers are there, or the last deadline; what nobody waits for is given up.

    Args:
        pendings: Answers that wait for computations.
        disconnected: Ends when the client has gone. A future is left as it is.

    Raises:
        Gone: The client has gone first.
    """
    flights = [pending.flight for pending in pendings if pending.flight is not None]
    try:
        await ended(flights, max(pending.deadline for pending in pendings), disconnected)
    finally:
        for pending in pendings:
            if pending.waits_for is not None:
                pending.cancel()


async def ended(
    futures: Sequence[Future[Any]],
    deadline: float,
    disconnected: asyncio.Future[Any] | Coroutine[Any, Any, None],
) -> None:
    """Wait until all futures are done, or the deadline.

    Args:
        futures: At least one.
        deadline: Monotonic instant.
        disconnected: Ends when the client has gone. A future is left as it is.

    Raises:
        Gone: The client has gone first.
    """
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    under_way_now = len(futures)

    def wake(*_: object) -> None:
        if not waiter.done():
            waiter.set_result(None)

    def arrived() -> None:
        nonlocal under_way_now
        under_way_now -= 1
        if not under_way_now:
            wake()

    def one_done(_: Future[Any]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(arrived)

    for future in futures:
        future.add_done_callback(one_done)
    timer = loop.call_later(max(0.0, deadline - time.monotonic()), wake)
    own: asyncio.Task[None] | None = None
    if isinstance(disconnected, asyncio.Future):
        watch = disconnected
    else:
        watch = own = loop.create_task(disconnected)
    watch.add_done_callback(wake)
    try:
        await waiter
        if watch.done():
            raise Gone
    finally:
        timer.cancel()
        watch.remove_done_callback(wake)
        if own is not None:
            own.cancel()


async def together(parts: Sequence[Any], aside: Aside) -> list[Any]:
    """Return parts, with what is still to be called replaced by what it returned.

    Args:
        parts: Of some requests; a `Rest` is taken in steps where this loop may ask a Redis.
        aside: Runs what may wait, all in one go.
    """
    if get_runner().here():
        begun = [taken(each.steps) if isinstance(each, Rest) else each for each in parts]
        parts = [await each if isinstance(each, asyncio.Future) else each for each in begun]
    if not any(callable(each) for each in parts):
        return list(parts)

    def call() -> list[Any]:
        return [each() if callable(each) else each for each in parts]

    called: list[Any] = await aside(call)
    return called


def taken(steps: Steps[Result]) -> asyncio.Future[Result]:
    """Return the future of what steps return, which this loop takes; the cache's runner has it."""
    waiter: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def then(result: Result, error: BaseException | None) -> None:
        if waiter.done():  # whoever waited has gone
            if isinstance(result, Pending) and result.waits_for is not None:
                result.cancel()
        elif error is None:
            waiter.set_result(result)
        else:
            waiter.set_exception(error)

    get_runner().run(steps, then)
    return waiter


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="lane")


async def on_thread(call: Callable[[], Result]) -> Result:
    """Return what a call returns that may wait; on the lane's threads."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(
        _threads(), context.run, _and_let_go, call
    )


def _and_let_go(call: Callable[[], Result]) -> Result:
    try:
        return call()
    finally:
        close_old_connections()  # a thread's is its own, and nobody else ends it
