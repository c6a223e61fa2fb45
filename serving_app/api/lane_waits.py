"""How the event loop waits: for a thread, or for computations, unless the client goes first."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from django.db import close_old_connections

from cache_app.core.steps import Going, Steps, Then
from cache_app.wiring import get_runner
from serving_app.api.lane_http import Gone
from serving_app.core.pending import Pending, Rest

__all__ = [
    "Aside",
    "Ended",
    "OnThread",
    "ended",
    "landed",
    "landing",
    "on_thread",
    "taken",
    "together",
    "unless_gone",
]

Result = TypeVar("Result")

Aside = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs what may wait, and returns what it returned."""

_THREADS = 16
"""For what waits: feature sources, fallbacks, tokens that are new."""


class Ended:
    """The question whether futures are done, or the deadline has come.

    Args:
        futures: At least one.
        deadline: Monotonic instant.
    """

    __slots__ = ("_deadline", "_futures", "_left", "_loop", "_then", "_thread", "_timer")

    def __init__(self, futures: Sequence[Future[Any]], deadline: float) -> None:
        self._futures = futures
        self._deadline = deadline
        self._then: Then | None = None

    def wait(self) -> None:
        """Wait for them on this thread."""
        wait(self._futures, max(0.0, self._deadline - time.monotonic()))

    def begin(self, _: Any, then: Then) -> None:
        """Wait for them on the event loop that runs, whose thread calls this."""
        self._then, self._left = then, len(self._futures)
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        seconds = max(0.0, self._deadline - time.monotonic())
        self._timer = self._loop.call_later(seconds, self._over)
        for future in self._futures:
            future.add_done_callback(self._one_done)

    def give_up(self) -> None:
        """Wait no more."""
        self._then = None
        self._timer.cancel()

    def _one_done(self, _: Future[Any]) -> None:
        if threading.get_ident() == self._thread:
            self._arrived()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived)

    def _arrived(self) -> None:
        self._left -= 1
        if not self._left:
            self._timer.cancel()
            self._over()

    def _over(self) -> None:
        then, self._then = self._then, None
        if then is not None:
            then(None, None)


class OnThread:
    """The question what a call returns that may wait for a database or a plugin.

    Args:
        call: The call.
        aside: Runs it.
    """

    __slots__ = ("_aside", "_call", "_task")

    def __init__(self, call: Callable[[], Any], aside: Aside) -> None:
        self._call = call
        self._aside = aside

    def wait(self) -> Any:
        """Return what it returns, on this thread."""
        return self._call()

    def begin(self, _: Any, then: Then) -> None:
        """Call it on a thread."""

        def ended(task: asyncio.Task[Any]) -> None:
            if task.cancelled():
                then(None, asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                then(None, error)
            else:
                then(task.result(), None)

        async def aside() -> Any:
            return await self._aside(self._call)

        self._task = asyncio.get_running_loop().create_task(aside())  # it must not be collected
        self._task.add_done_callback(ended)


async def landed(
    pendings: Sequence[Pending],
    gone: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Wait until answers are there, or the last deadline; what nobody waits for is given up.

    Args:
        pendings: Answers that wait for computations.
        gone: Ends when the client has gone; called if there is need to wait.

    Raises:
        Gone: The client has gone first.
    """
    await unless_gone(landing(pendings), gone)


def landing(pendings: Sequence[Pending]) -> Steps[None]:
    """Wait until answers are there, or the last deadline; what nobody waits for is given up.

    Args:
        pendings: Answers that wait for computations.
    """
    flights = [pending.flight for pending in pendings if pending.flight is not None]
    try:
        yield Ended(flights, max([pending.deadline for pending in pendings]))
    finally:
        for pending in pendings:
            if pending.waits_for is not None:
                pending.cancel()


async def ended(
    futures: Sequence[Future[Any]],
    deadline: float,
    gone: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Wait until all futures are done, or the deadline.

    Args:
        futures: At least one.
        deadline: Monotonic instant.
        gone: Ends when the client has gone; called if there is need to wait.

    Raises:
        Gone: The client has gone first.
    """

    def ending() -> Steps[None]:
        yield Ended(futures, deadline)

    await unless_gone(ending(), gone)


async def unless_gone(
    steps: Steps[Result], gone: Callable[[], Coroutine[Any, Any, None]]
) -> Result:
    """Return what steps return, which this loop takes.

    Args:
        steps: The steps.
        gone: Ends when the client has gone; called if there is need to wait.

    Raises:
        Gone: The client has gone while the steps waited for what can be given up.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[Result] = loop.create_future()

    def then(result: Result, error: BaseException | None) -> None:
        if waiter.done():
            return
        if error is None:
            waiter.set_result(result)
        else:
            waiter.set_exception(error)

    going = Going(steps, then, get_runner().via, contextvars.copy_context())
    going.go_on()
    if waiter.done():
        return waiter.result()
    watch = loop.create_task(gone())

    def leave(_: asyncio.Future[Any]) -> None:
        going.leave(Gone())

    watch.add_done_callback(leave)
    try:
        return await waiter
    except asyncio.CancelledError:
        going.leave(asyncio.CancelledError())
        raise
    finally:
        watch.remove_done_callback(leave)
        watch.cancel()


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
