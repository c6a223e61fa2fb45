"""The future of one queued work: `concurrent.futures.Future`'s interface at a part of its cost.

A standard future makes a condition variable of its own and takes its lock at each step. Here all
futures of one batcher share the batcher's lock, a whole batch is settled under it at once, and a
condition exists only for a future that someone blocks on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

__all__ = ["WorkFuture"]

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

# The states of concurrent.futures, which `wait` and `as_completed` compare with.
_PENDING = "PENDING"
_RUNNING = "RUNNING"
_CANCELLED = "CANCELLED_AND_NOTIFIED"
_FINISHED = "FINISHED"


class WorkFuture(Future[Result]):
    """A future that is settled in two steps: its outcome under a lock, then the news of it outside.

    It is a `Future` wherever one is asked for: `wait`, `as_completed`, `asyncio.wrap_future`.

    Args:
        lock: Guards the outcome. `settle` and `settle_cancelled` are called with it held; all else
            is called without.
    """

    # What every future has is in slots; what few have is a default of the class until it is set.
    __slots__ = ("_callback", "_lock", "_result", "_state")

    _exception: BaseException | None = None
    _more_callbacks: list[Callable[[Future[Result]], object]] | None = None
    _own_condition: threading.Condition | None = None

    def __init__(self, lock: threading.Lock) -> None:
        # Not Future's: the condition that it makes costs more than all the rest.
        self._lock = lock
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
        """Return whether its batch has started and not ended."""
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

    # --- Who settles ---------------------------------------------------------------------------

    def start(self) -> None:
        """Say that its batch has started. Called with the lock held."""
        self._state = _RUNNING

    def settle(self, result: Any, error: BaseException | None = None) -> None:
        """Set the outcome. Called with the lock held; `announce` must follow without it."""
        assert self._state is _RUNNING or self._state is _PENDING, "a work is settled once"
        self._result = result
        if error is not None:
            self._exception = error
        self._state = _FINISHED

    def settle_cancelled(self) -> None:
        """Make cancellation the outcome. Called with the lock held; `announce` must follow."""
        assert not self.done(), "a work is settled once"
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

    def set_running_or_notify_cancel(self) -> bool:
        """Not for this future: its batcher starts it."""
        raise NotImplementedError("a batcher starts and settles its futures itself")

    def set_result(self, result: Result) -> None:
        """Not for this future: its batcher settles it."""
        raise NotImplementedError("a batcher starts and settles its futures itself")

    def set_exception(self, exception: BaseException | None) -> None:
        """Not for this future: its batcher settles it."""
        raise NotImplementedError("a batcher starts and settles its futures itself")
