"""One computation per missing key, however many ask for it at once."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["SingleFlight"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """The computations under way, by key. Any thread calls it; each step is O(1).

    The first to `join` a key leads: it must call `resolve` or `fail` in the end, whatever happens
    to it. All who joined hold the same future, so they get the same outcome, errors too; each
    waits with ``future.result(timeout)``. The future cannot be cancelled, as it is everyone's:
    a waiter that runs out of time only stops waiting.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[K, Future[V]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: K) -> tuple[Future[V], bool]:
        """Return the key's future, and whether the caller leads."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = Future()
            # A running future refuses to be cancelled.
            flight.set_running_or_notify_cancel()
            return flight, True

    def resolve(self, key: K, result: V) -> None:
        """Hand the result to all who wait, and forget the key.

        Raises:
            KeyError: The key is not under way.
        """
        self._land(key).set_result(result)

    def fail(self, key: K, error: BaseException) -> None:
        """Raise the error in all who wait, and forget the key.

        Raises:
            KeyError: The key is not under way.
        """
        self._land(key).set_exception(error)

    def _land(self, key: K) -> Future[V]:
        with self._lock:
            return self._flights.pop(key)
