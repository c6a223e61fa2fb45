"""One computation per missing key, however many ask for it at once."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

from cache_app.core.light_future import LightFuture

__all__ = ["SingleFlight"]

_REMEMBERED = 1000
"""Results kept for those who looked into the cache just before they landed."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Flight(LightFuture[V]):
    """The future of one key."""

    note: Any = None
    """What its leader says of how the result came about; set before that is there."""


class SingleFlight(Generic[K, V]):
    """The computations under way, by key. Any thread calls it; each step is O(1).

    The first to `join` a key leads: it must call `resolve` or `fail` in the end, whatever happens
    to it. All who joined hold the same future, so they get the same outcome, errors too; each
    waits with ``future.result(timeout)``. The future cannot be cancelled, as it is everyone's:
    a waiter that runs out of time only stops waiting, and may say so by `leave`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[K, Flight[V]] = {}
        self._waiting: dict[K, int] = {}
        self._landed: dict[K, tuple[int, Flight[V]]] = {}
        self._landings = 0

    def __len__(self) -> int:
        return len(self._flights)

    def moment(self) -> int:
        """Return what `join` takes as ``since``: call it before looking into the cache."""
        return self._landings

    def join(self, key: K, *, since: int | None = None) -> tuple[Flight[V], bool]:
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
                self._waiting[key] += 1
                return flight, False
            number, landed = self._landed.get(key, (0, None))
            if landed is not None and since is not None and number > since:
                return landed, False
            flight = self._flights[key] = Flight(self._lock)
            self._waiting[key] = 1
            flight.start()  # and refuses to be cancelled
            return flight, True

    def leave(self, key: K, flight: Flight[V]) -> bool:
        """Stop waiting; return whether nobody waits any more, and the key is forgotten.

        Each who joined may call it once. Whoever asks for the key after that leads anew; the
        leader of before still resolves its own flight, or fails it.
        """
        with self._lock:
            if self._flights.get(key) is not flight:
                return False
            self._waiting[key] -= 1
            if self._waiting[key]:
                return False
            del self._flights[key], self._waiting[key]
            return True

    def resolve(self, key: K, result: V, *, flight: Flight[V] | None = None) -> None:
        """Hand the result to all who wait, and forget the key.

        Args:
            key: What was computed.
            result: What came of it.
            flight: The leader's, which all may have left since; None: the key's.

        Raises:
            KeyError: The key is not under way.
        """
        with self._lock:
            flight = self._take(key, flight)
            self._landings += 1
            self._landed.pop(key, None)
            self._landed[key] = (self._landings, flight)
            if len(self._landed) > _REMEMBERED:
                del self._landed[next(iter(self._landed))]  # a dict keeps the order of insertion
            flight.settle(result)
        flight.announce()

    def fail(self, key: K, error: BaseException, *, flight: Flight[V] | None = None) -> None:
        """Raise the error in all who wait, and forget the key. See `resolve`.

        Raises:
            KeyError: The key is not under way.
        """
        with self._lock:
            flight = self._take(key, flight)
            flight.settle(None, error)
        flight.announce()

    def _take(self, key: K, flight: Flight[V] | None) -> Flight[V]:
        """Take a flight out, if it is still the key's. Called with the lock held."""
        if flight is None or self._flights.get(key) is flight:
            flight = self._flights.pop(key)
            del self._waiting[key]
        return flight
