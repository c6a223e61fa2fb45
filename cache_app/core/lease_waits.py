"""One computation per missing key among processes that share a level: leases, and who waits."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

__all__ = ["LEASE_SECONDS", "KeyLease", "KeyLeases", "LeaseStats", "LeaseWaits"]

logger = logging.getLogger(__name__)

LEASE_SECONDS = 10.0
"""How long a key is its taker's. It is not renewed: others compute for themselves after that, as
they do when its taker has died."""
_FIRST, _LONGEST = 0.002, 0.05
"""Seconds between two looks at a lease that another process has; each is twice the last."""
_EACH = 0.0005
"""Seconds between two looks, if that is more, for each key waited for: looks take a processor."""
_MOST = 1000
"""Keys waited for at most; beyond that each process computes."""
_TOGETHER = 256
"""Keys asked for in one go."""


@dataclass(frozen=True, slots=True)
class KeyLease:
    """The right to compute a key while the other processes wait."""

    key: str
    token: bytes = b""
    """Says whose it is; empty: nobody was asked, and there is nothing to release."""
    stored: bool = False
    """Whether the shared level had a value, fresh or not, when the lease was taken."""


@dataclass(frozen=True, slots=True)
class LeaseStats:
    """What a process, or several, counted of key leases."""

    waiting: int
    """Keys whose leases are waited for now."""
    errors: int
    """Calls that whoever keeps the leases did not answer as it should."""
    without: int
    """Processes, of those counted, that have none at the moment, and compute for themselves."""

    @classmethod
    def merged(cls, parts: Sequence[LeaseStats]) -> LeaseStats:
        """Return the counts of several processes as one's."""
        return cls(
            sum(part.waiting for part in parts),
            sum(part.errors for part in parts),
            sum(part.without for part in parts),
        )


class KeyLeases(Protocol):
    """Who keeps the leases. It raises nothing; one thread calls ``take`` and ``release``."""

    @property
    def available(self) -> bool:
        """Whether leases are kept at the moment, as far as is known. Any thread asks."""

    @property
    def errors(self) -> int:
        """Calls that were not answered as they should have been. Any thread asks."""

    def take(self, keys: Sequence[str]) -> list[KeyLease | None]:
        """Return the lease of each key; None: another process has it.

        If that cannot be known, each gets one: without leases all compute.
        """

    def release(self, leases: Sequence[KeyLease]) -> bool:
        """Give back leases that are still their takers'; return whether that was answered."""


@dataclass(order=True, slots=True)
class _Wait:
    """A key whose lease is wanted."""

    at: float
    """When to ask next."""
    number: int
    key: str = field(compare=False)
    then: Callable[[KeyLease], None] = field(compare=False)
    until: float = field(compare=False)
    delay: float = field(compare=False, default=_FIRST / 2)


@dataclass(order=True, slots=True)
class _Release:
    """A lease that is to be given back."""

    at: float
    number: int
    lease: KeyLease = field(compare=False)
    until: float = field(compare=False)


class LeaseWaits:
    """Takes leases, waits for those that others have. Any thread calls it; none of them blocks.

    One thread does it all, in few round trips however many keys there are: it asks for the leases
    that are wanted, again after 2, 4, 8 … 50 ms for those that other processes have, and gives
    back what is done with, until that is answered. Whoever has got a lease looks into the cache
    once more, if it says that something is stored there, before it computes: that is how a waiter
    finds what it waited for. So a process that fails, and gives its lease back, makes way for the
    next.

    Nothing compares tokens when a value is stored: keys carry the generation, so that a
    computation which began before an invalidation stores its result where nobody looks. Two
    computations of one key, by a lease that ran out, are equally valid.

    Args:
        leases: Who keeps them.
    """

    def __init__(self, leases: KeyLeases) -> None:
        self._leases = leases
        self._changed = threading.Condition()
        self._waits: list[_Wait] = []
        self._releases: list[_Release] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._waits)

    def stats(self) -> LeaseStats:
        """Return the counts of this process."""
        return LeaseStats(len(self._waits), self._leases.errors, not self._leases.available)

    def take(self, key: str, then: Callable[[KeyLease], None], *, within: float) -> None:
        """Call ``then`` once with the key's lease, on another thread; at once if there are none.

        Args:
            key: What is to be computed.
            then: Computes it, or finds it stored, and sees to it that the lease is released. It
                must neither raise nor wait.
            within: Seconds to wait at most. After that it gets a lease with an empty token.
        """
        now = time.monotonic()
        until = now + min(within, LEASE_SECONDS)
        with self._changed:
            waits = self._leases.available and len(self._waits) < _MOST and not self._closed
            if waits:
                heapq.heappush(self._waits, _Wait(now, next(self._numbers), key, then, until))
                self._wake()
        if not waits:
            then(KeyLease(key))

    def release(self, lease: KeyLease) -> None:
        """Give a lease back soon: the value is stored, or there will be none."""
        if not lease.token:
            return
        now = time.monotonic()
        with self._changed:
            release = _Release(now, next(self._numbers), lease, now + LEASE_SECONDS)
            heapq.heappush(self._releases, release)
            self._wake()

    def close(self) -> None:
        """End the thread. Who waits still computes for itself."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()
        self._give_back(self._releases)
        for wait in self._waits:
            _call(wait, KeyLease(wait.key))
        self._releases, self._waits = [], []

    def _wake(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="lease-waits", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        while (due := self._due()) is not None:
            releases, waits = due
            late = self._give_back(releases)
            held = self._ask(waits)
            with self._changed:
                for release in late:
                    heapq.heappush(self._releases, release)
                for wait in held:
                    heapq.heappush(self._waits, wait)

    def _due(self) -> tuple[list[_Release], list[_Wait]] | None:
        """Return what is to be done, as soon as there is something; None: closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                releases = _pop_due(self._releases, now)
                waits = _pop_due(self._waits, now)
                if releases or waits:
                    return releases, waits
                first = [heap[0].at for heap in (self._releases, self._waits) if heap]
                self._changed.wait(min(first) - now if first else None)
        return None

    def _give_back(self, releases: Sequence[_Release]) -> list[_Release]:
        """Release leases; return those to be released later, as nobody answered."""
        if not releases or self._leases.release([release.lease for release in releases]):
            return []
        now = time.monotonic()
        for release in releases:
            release.at = now + _LONGEST
        return [release for release in releases if release.at < release.until]

    def _ask(self, waits: Sequence[_Wait]) -> list[_Wait]:
        """Ask for leases; return the waits for those that others have."""
        if not waits:
            return []
        held = []
        leases = self._leases.take([wait.key for wait in waits])
        now = time.monotonic()
        longest = max(_LONGEST, _EACH * len(self._waits))
        for wait, lease in zip(waits, leases, strict=True):
            if lease is None and now < wait.until:
                wait.delay = min(2 * wait.delay, longest)
                wait.at = min(now + wait.delay, wait.until)
                held.append(wait)
            else:
                _call(wait, lease or KeyLease(wait.key))
        return held


Due = TypeVar("Due", _Wait, _Release)


def _pop_due(heap: list[Due], now: float) -> list[Due]:
    due: list[Due] = []
    while heap and heap[0].at <= now and len(due) < _TOGETHER:
        due.append(heapq.heappop(heap))
    return due


def _call(wait: _Wait, lease: KeyLease) -> None:
    try:
        wait.then(lease)
    except Exception:  # the others wait, too
        logger.exception("What waited for %s failed", wait.key)
