"""One computation per missing key, however many ask for it at once."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["SingleFlight"]

_REMEMBERED = 1000
"""Results kept for those who looked into the cache just before they landed."""

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
        self._landed: dict[K, tuple[int, Future[V]]] = {}
        self._landings = 0

    def __len__(self) -> int:
        return len(self._flights)

    def moment(self) -> int:
        """Return what `join` takes as ``since``: call it before looking into the cache."""
        return self._landings

    def join(self, key: K, *, since: int | None = None) -> tuple[Future[V], bool]:
        """Return the key's future, and whether the caller leads.

        Args:
            key: What is to be computed.
            since: The `moment` before the caller looked into the cache. A result that landed
                after it is returned as it is: the caller was too early to find it there, and must
                not compute it again. The last 1,000 results are remembered for that.
        """
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            number, landed = self._landed.get(key, (0, None))
            if landed is not None and since is not None and number > since:
                return landed, False
            flight = self._flights[key] = Future()
            # A running future refuses to be cancelled.
            flight.set_running_or_notify_cancel()
            return flight, True

    def resolve(self, key: K, result: V) -> None:
        """Hand the result to all who wait, and forget the key.

        Raises:
            KeyError: The key is not under way.
        """
        with self._lock:
            flight = self._flights.pop(key)
            self._landings += 1
            self._landed.pop(key, None)
            self._landed[key] = (self._landings, flight)
            if len(self._landed) > _REMEMBERED:
                del self._landed[next(iter(self._landed))]  # a dict keeps the order of insertion
        flight.set_result(result)

    def fail(self, key: K, error: BaseException) -> None:
        """Raise the error in all who wait, and forget the key.

        Raises:
            KeyError: The key is not under way.
        """
        with self._lock:
            flight = self._flights.pop(key)
        flight.set_exception(error)
