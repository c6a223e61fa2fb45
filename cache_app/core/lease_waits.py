"""One computation per missing key among processes that share a level: leases, and who waits."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from cache_app.core.steps import Runner, Steps, run

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
    """Who keeps the leases. Its steps raise nothing."""

    @property
    def available(self) -> bool:
        """Whether leases are kept at the moment, as far as is known. Any thread asks."""

    @property
    def errors(self) -> int:
        """Calls that were not answered as they should have been. Any thread asks."""

    def taking(self, keys: Sequence[str]) -> Steps[list[KeyLease | None]]:
        """Return the lease of each key, in steps; None: another process has it.

        If that cannot be known, each gets one: without leases all compute.
        """

    def releasing(self, leases: Sequence[KeyLease]) -> Steps[bool]:
        """In steps, give back leases that are still their takers'; return whether it was heard."""


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

    One thread, or the event loop that is attached, does it all, in few round trips however many
    keys there are: it asks for the leases that are wanted, again after 2, 4, 8 … 50 ms for those
    that other processes have, and gives back what is done with, until that is answered. Whoever has
    got a lease looks into the cache once more, if it says that something is stored there, before it
    computes: that is how a waiter finds what it waited for. So a process that fails, and gives its
    lease back, makes way for the next.

    Nothing compares tokens when a value is stored: keys carry the generation, so that a
    computation which began before an invalidation stores its result where nobody looks. Two
    computations of one key, by a lease that ran out, are equally valid.

    Args:
        leases: Who keeps them.
        runner: Has the event loop, when there is one; whoever attaches it there calls `moved`.
    """

    def __init__(self, leases: KeyLeases, runner: Runner | None = None) -> None:
        self._leases = leases
        self._runner = runner or Runner()
        self._changed = threading.Condition()
        self._waits: list[_Wait] = []
        self._releases: list[_Release] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._turning = False
        """Whether the event loop is at it, or will be in a moment."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._waits)

    def stats(self) -> LeaseStats:
        """Return the counts of this process."""
        return LeaseStats(len(self._waits), self._leases.errors, int(not self._leases.available))

    def take(self, key: str, then: Callable[[KeyLease], None], *, within: float) -> None:
        """Call ``then`` once with the key's lease, where that is waited for; at once without one.

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
        run(self._giving_back(self._releases))
        for wait in self._waits:
            _call(wait, KeyLease(wait.key))
        self._releases, self._waits = [], []

    def moved(self) -> None:
        """Take notice that the event loop has been attached or detached; its thread calls it."""
        with self._changed:
            self._turning = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._releases or self._waits:
                self._wake()
            else:
                self._changed.notify()

    def _wake(self) -> None:
        """See to it that somebody looks what is to be done. Called with the lock held."""
        loop = self._runner.loop
        if loop is not None:
            if not self._turning:
                self._turning = True
                soon = loop.call_soon if self._runner.here() else loop.call_soon_threadsafe
                with contextlib.suppress(RuntimeError):  # it has ended; `moved` will be called
                    soon(self._turn_on_loop)
            return
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="lease-waits", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        while (due := self._due()) is not None:
            run(self._turn(*due))

    def _due(self) -> tuple[list[_Release], list[_Wait]] | None:
        """Return what is to be done, as soon as there is something; None: closed."""
        with self._changed:
            while not self._closed:
                if self._runner.loop is not None:
                    if self._releases or self._waits:  # put aside here since it took over
                        self._wake()
                    self._changed.wait()
                    continue
                releases, waits, seconds = self._pop()
                if releases or waits:
                    return releases, waits
                self._changed.wait(seconds)
        return None

    def _pop(self) -> tuple[list[_Release], list[_Wait], float | None]:
        """Return what is due, or seconds until something is. Called with the lock held."""
        now = time.monotonic()
        releases = _pop_due(self._releases, now)
        waits = _pop_due(self._waits, now)
        first = [heap[0].at for heap in (self._releases, self._waits) if heap]
        return releases, waits, min(first) - now if first else None

    def _turn_on_loop(self) -> None:
        """Do what is due, and come back for the rest. The loop's thread calls it."""
        with self._changed:
            loop = self._runner.loop
            if loop is None or not self._turning:
                return
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            releases, waits, seconds = self._pop()
            if not releases and not waits:
                self._turning = False
                if seconds is not None:
                    self._timer = loop.call_later(seconds, self._look_again)
                return

        def turned(_: None, error: BaseException | None) -> None:
            if error is not None:
                logger.error("Leases failed", exc_info=error)
            self._turn_on_loop()

        self._runner.run(self._turn(releases, waits), turned)

    def _look_again(self) -> None:
        with self._changed:
            self._timer = None
            if self._turning:
                return
            self._turning = True
        self._turn_on_loop()

    def _turn(self, releases: list[_Release], waits: list[_Wait]) -> Steps[None]:
        """Give back, ask, and put aside what is to be done later."""
        late = yield from self._giving_back(releases)
        held = yield from self._asking(waits)
        with self._changed:
            for release in late:
                heapq.heappush(self._releases, release)
            for wait in held:
                heapq.heappush(self._waits, wait)

    def _giving_back(self, releases: Sequence[_Release]) -> Steps[list[_Release]]:
        """Release leases; return those to be released later, as nobody answered."""
        if not releases:
            return []
        if (yield from self._leases.releasing([release.lease for release in releases])):
            return []
        now = time.monotonic()
        for release in releases:
            release.at = now + _LONGEST
        return [release for release in releases if release.at < release.until]

    def _asking(self, waits: Sequence[_Wait]) -> Steps[list[_Wait]]:
        """Ask for leases; return the waits for those that others have."""
        if not waits:
            return []
        held = []
        leases = yield from self._leases.taking([wait.key for wait in waits])
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
