"""A circuit breaker: what failed a moment ago is not waited for again at once.

States and the single trial call are those of M. Nygard, *Release It!* (2nd ed., 2018), chapter 5.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident
from typing import Literal, ParamSpec, TypeVar

from cache_app.core.levels import Level, LevelStats, Stored, getting, putting, removing
from cache_app.core.steps import Steps, done, run
from plugins.contracts import InsertOrigin
from plugins.errors import LevelUnavailable

__all__ = [
    "Breaker",
    "BreakerState",
    "GuardedLevel",
    "GuardedStats",
    "PartlyUnavailable",
    "PoolExhausted",
]

BreakerState = Literal["closed", "open", "half_open"]

P = ParamSpec("P")
R = TypeVar("R")


class PartlyUnavailable(LevelUnavailable):
    """The level answers, but not this call: one node of many is away, or its memory is full.

    A breaker takes it for an answer. Else one node's death would take all nodes away.
    """


class PoolExhausted(LevelUnavailable):
    """The level was not asked: this process's own connections to it are all in use.

    That says nothing about the level, and decides nothing about its breaker.
    """


class Breaker:
    """Says whether to call what may be down. Any thread uses it, several at once.

    *Closed*: every call is allowed. *Open*, after some failures in a row: none is. *Half open*,
    some time later: one call at a time is allowed, and decides between the two.

    Each ``allow`` that returned True must be followed by ``succeeded``, ``failed`` or
    ``abandoned`` with the same ``who``: any object, or None for this thread. A call that was
    allowed before the breaker opened, and ends later, decides nothing.

    Args:
        failures: Failures in a row after which it opens.
        open_seconds: Seconds for which it stays open.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        open_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = failures
        self._open_seconds = open_seconds
        self._clock = clock
        self._forget()
        # A fork may come while another thread holds the lock or probes; the child has no such
        # thread.
        itself = weakref.ref(self)

        def in_child() -> None:
            breaker = itself()
            if breaker is not None:
                breaker._forget()  # noqa: SLF001  (itself)

        os.register_at_fork(after_in_child=in_child)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._failed = 0
        self._open_until: float | None = None
        """None: closed."""
        self._prober: object = None
        """Whose call decides; None: nobody's."""

    @property
    def state(self) -> BreakerState:
        """The state now."""
        with self._lock:
            if self._open_until is None:
                return "closed"
            if self._prober is not None or self._clock() >= self._open_until:
                return "half_open"
            return "open"

    def allow(self, who: object = None) -> bool:
        """Return whether to call."""
        if self._open_until is None:  # no lock: a call more or less does no harm
            return True
        with self._lock:
            if self._open_until is None:
                return True
            if self._prober is not None or self._clock() < self._open_until:
                return False
            self._prober = who or get_ident()
            return True

    def succeeded(self, who: object = None) -> None:
        """Take notice that the call was answered."""
        if self._open_until is None and not self._failed:
            return
        with self._lock:
            if self._open_until is None:
                self._failed = 0
            elif self._prober == (who or get_ident()):
                self._failed, self._open_until, self._prober = 0, None, None

    def failed(self, who: object = None) -> None:
        """Take notice that the call was not answered."""
        with self._lock:
            if self._open_until is None:
                self._failed += 1
                if self._failed < self._limit:
                    return
            elif self._prober != (who or get_ident()):
                return
            self._open_until, self._prober = self._clock() + self._open_seconds, None

    def abandoned(self, who: object = None) -> None:
        """Take notice that there was no call. If it was the probe, the next one may be it."""
        if self._open_until is None:
            return
        with self._lock:
            if self._prober == (who or get_ident()):
                self._prober = None


@dataclass(frozen=True, slots=True)
class GuardedStats(LevelStats):
    """What a guarded level counted."""

    state: BreakerState = "closed"
    """``open``: the level is not asked at the moment."""
    refused: int = 0
    """Calls that were not passed on, as the level had failed a moment before."""


class GuardedLevel:
    """A level behind a breaker: while it is down, calls fail at once.

    Args:
        level: The level.
        breaker: Its breaker.
    """

    def __init__(self, level: Level, breaker: Breaker) -> None:
        self.level = level
        self.breaker = breaker
        self.name = level.name
        self.waits = bool(getattr(level, "waits", False))
        self._refused = 0
        self._last = LevelStats()

    def _guarded(self, steps: Steps[R]) -> Steps[R]:
        """Take steps, if the breaker lets them; tell it how they ended."""
        who = object()
        if not self.breaker.allow(who):
            steps.close()
            self._refused += 1
            raise LevelUnavailable(f"{self.name} failed a moment ago and is not asked.")
        try:
            answer = yield from steps
        except PartlyUnavailable:
            self.breaker.succeeded(who)
            raise
        except PoolExhausted:
            self.breaker.abandoned(who)
            raise
        except BaseException:  # whatever it is, a probe must end
            self.breaker.failed(who)
            raise
        self.breaker.succeeded(who)
        return answer

    def _ask(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return run(self._guarded(done(call, *args, **kwargs)))

    def getting(self, key: str) -> Steps[Stored | None]:
        """Do what `get` does, in steps."""
        return self._guarded(getting(self.level, key))

    def putting(self, key: str, stored: Stored, origin: InsertOrigin) -> Steps[None]:
        """Do what `put` does, in steps."""
        return self._guarded(putting(self.level, key, stored, origin))

    def removing(self, key: str) -> Steps[bool]:
        """Do what `remove` does, in steps."""
        return self._guarded(removing(self.level, key))

    def get(self, key: str, /) -> Stored | None:
        """Return what is stored, or None for a miss.

        Raises:
            LevelUnavailable: The level does not answer, or did not a moment ago.
        """
        return run(self.getting(key))

    def put(self, key: str, stored: Stored, origin: InsertOrigin) -> None:
        """Store, or overwrite.

        Raises:
            LevelUnavailable: The level does not answer, or did not a moment ago.
        """
        run(self.putting(key, stored, origin))

    def remove(self, key: str) -> bool:
        """Forget a key; return whether it was there.

        Raises:
            LevelUnavailable: The level does not answer, or did not a moment ago.
        """
        return run(self.removing(key))

    def remove_where(self, predicate: Callable[[str], bool]) -> int:
        """Forget every key for which the predicate holds; return how many there were.

        Raises:
            LevelUnavailable: The level does not answer, or did not a moment ago.
        """
        return self._ask(self.level.remove_where, predicate)

    def clear(self) -> int:
        """Forget every key; return how many there were.

        Raises:
            LevelUnavailable: The level does not answer, or did not a moment ago.
        """
        return self._ask(self.level.clear)

    def inspect(self, key: str) -> tuple[Stored, int] | None:
        """Return what is stored, and the bytes that it takes, if the level can say that.

        Raises:
            LevelUnavailable: The level does not answer, or did not a moment ago.
        """
        inspect: Callable[[str], tuple[Stored, int] | None] | None
        inspect = getattr(self.level, "inspect", None)
        return None if inspect is None else self._ask(inspect, key)

    def stats(self) -> GuardedStats:
        """Return the counts; those that were seen last while the level is down."""
        with contextlib.suppress(LevelUnavailable):
            self._last = self._ask(self.level.stats)
        counts = {field.name: getattr(self._last, field.name) for field in _COUNTS}
        return GuardedStats(**counts, state=self.breaker.state, refused=self._refused)


_COUNTS = dataclasses.fields(LevelStats)
