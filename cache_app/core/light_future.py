"""`concurrent.futures.Future`'s interface at a part of its cost.

A standard future makes a condition variable of its own and takes its lock at each step. Here a
condition exists only for a future that someone blocks on, and many futures may share one lock, so
that all of them are settled under it at once. Nor does one keep its callbacks once they were
called: they hold what waited for it, and that holds the future, a cycle which only a full garbage
collection finds; of tens of objects for each answer there are soon so many that collections cost
more than all else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, TypeVar

__all__ = ["LightFuture"]

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

# The states of concurrent.futures, which `wait` and `as_completed` compare with.
_PENDING = "PENDING"
_RUNNING = "RUNNING"
_CANCELLED = "CANCELLED_AND_NOTIFIED"
_FINISHED = "FINISHED"


class LightFuture(Future[Result]):
    """A future that may be settled in two steps: its outcome under a lock, then the news of it.

    It is a `Future` wherever one is asked for: `wait`, `as_completed`, `asyncio.wrap_future`. Who
    has many under one lock calls `start`, `settle` and `settle_cancelled` with it held, and then
    `announce` without; for a single one there is what every future has.

    Args:
        lock: Guards the outcome; None: a lock of its own.
    """

    # What every future has is in slots; what few have is a default of the class until it is set.
    __slots__ = ("_callback", "_lock", "_result", "_state")

    _exception: BaseException | None = None
    _more_callbacks: list[Callable[[Future[Result]], object]] | None = None
    _own_condition: threading.Condition | None = None

    def __init__(self, lock: threading.Lock | None = None) -> None:
        # Not Future's: the condition that it makes costs more than all the rest.
        self._lock = threading.Lock() if lock is None else lock
        self._state = _PENDING
        self._result: Any = None
        self._callback: Callable[[Future[Result]], object] | None = None

    # --- Who waits -----------------------------------------------------------------------------

    def done(self) -> bool:
        """Return whether there is an outcome."""
        return self._state is _FINISHED or self._state is _CANCELLED

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self._state is _CANCELLED

    def has_failed(self) -> bool:
        """Return whether its outcome is an error."""
        return self._exception is not None

    def running(self) -> bool:
        """Return whether it has started and not ended."""
        return self._state is _RUNNING

    def result(self, timeout: float | None = None) -> Result:
        """Return the result; wait for it, if need be.

        Raises:
            TimeoutError: ``timeout`` seconds went by.
            CancelledError: It was cancelled.
        """
        error = self.exception(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del error, self  # a traceback that held us would be a cycle
        result: Result = self._result
        return result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what it failed with, or None; wait for the outcome, if need be.

        Raises:
            TimeoutError: ``timeout`` seconds went by.
            CancelledError: It was cancelled.
        """
        if not self.done():
            condition = self._condition
            with condition:
                if not condition.wait_for(self.done, timeout):
                    raise TimeoutError
        if self._state is _CANCELLED:
            raise CancelledError
        return self._exception

    def add_done_callback(self, fn: Callable[[Future[Result]], object]) -> None:
        """Call ``fn`` with this future when it is done: on the thread that settles it, or now."""
        with self._lock:
            if self._state is _PENDING or self._state is _RUNNING:
                if self._callback is None:
                    self._callback = fn
                elif self._more_callbacks is None:
                    self._more_callbacks = [fn]
                else:
                    self._more_callbacks.append(fn)
                return
        self._call(fn)

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]  # Future's is a field
        """The condition that waiters block on, made when first asked for."""
        with self._lock:
            if self._own_condition is None:
                self._waiters: list[Any] = []
                self._own_condition = threading.Condition()
            return self._own_condition

    # --- Who settles many -----------------------------------------------------------------------

    def start(self) -> None:
        """Say that it has started. Called with the lock held."""
        self._state = _RUNNING

    def settle(self, result: Any, error: BaseException | None = None) -> None:
        """Set the outcome. Called with the lock held; `announce` must follow without it."""
        assert self._state is _RUNNING or self._state is _PENDING, "a future is settled once"
        self._result = result
        if error is not None:
            self._exception = error
        self._state = _FINISHED

    def settle_cancelled(self) -> None:
        """Make cancellation the outcome. Called with the lock held; `announce` must follow."""
        assert not self.done(), "a future is settled once"
        self._state = _CANCELLED

    def announce(self) -> None:
        """Wake all who wait for the outcome, and call the callbacks. Called without the lock."""
        condition = self._own_condition  # none can be missed: the outcome was set under the lock
        if condition is not None:
            with condition:
                for waiter in self._waiters:
                    if self._state is _CANCELLED:
                        waiter.add_cancelled(self)
                    elif self._exception is not None:
                        waiter.add_exception(self)
                    else:
                        waiter.add_result(self)
                condition.notify_all()
        callback = self._callback
        if callback is not None:
            self._callback = None
            try:  # not `_call`: most have one, and a call costs as much as the rest
                callback(self)
            except Exception:
                logger.exception("A callback of %r failed", self)
        callbacks = self._more_callbacks
        if callbacks is not None:
            self._more_callbacks = None
            for callback in callbacks:
                self._call(callback)

    def _call(self, callback: Callable[[Future[Result]], object]) -> None:
        try:
            callback(self)
        except Exception:
            logger.exception("A callback of %r failed", self)

    # --- Who settles one ------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Cancel it, unless it has started; return whether it is cancelled."""
        with self._lock:
            if self._state is not _PENDING:
                return self._state is _CANCELLED
            self.settle_cancelled()
        self.announce()
        return True

    def set_running_or_notify_cancel(self) -> bool:
        """Start it, unless it was cancelled; return whether it has started.

        Raises:
            RuntimeError: It had started before.
        """
        with self._lock:
            if self._state is _PENDING:
                self.start()
                return True
            if self._state is _CANCELLED:
                return False
        raise RuntimeError(f"It has started before: {self!r}")

    def set_result(self, result: Result) -> None:
        """Set the result, and let all know who wait for it.

        Raises:
            InvalidStateError: There is an outcome.
        """
        self._set(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """Set what it failed with, and let all know who wait for it.

        Raises:
            InvalidStateError: There is an outcome.
        """
        self._set(None, exception)

    def _set(self, result: Any, error: BaseException | None) -> None:
        with self._lock:
            settled = not self.done()
            if settled:
                self.settle(result, error)
        if not settled:
            raise InvalidStateError(f"{self._state}: {self!r}")
        self.announce()
