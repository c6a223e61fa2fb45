"""The levels of the cache: one contract for all of them, read through in order."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from plugins.contracts import InsertOrigin
from plugins.errors import LevelUnavailable

__all__ = ["Found", "Level", "LevelStats", "Levels", "Stored"]


@dataclass(frozen=True, slots=True)
class Stored:
    """What every level keeps under a key. Levels hand it on unchanged, its lifetime too."""

    value: Any
    """The cached value; never None."""
    created: float
    """Wall-clock instant at which the value was computed."""
    expires: float
    """Wall-clock instant from which the value is no longer served."""
    fresh_until: float = math.inf
    """Wall-clock instant from which the value is stale: served only until there is a new one."""


@dataclass(frozen=True, slots=True)
class LevelStats:
    """What one level counted since it was made, and what it holds now."""

    hits: int = 0
    misses: int = 0
    insertions: int = 0
    """Values stored, overwriting ones included."""
    rejected: int = 0
    """Values not stored: too heavy, or expired on arrival."""
    evictions: int = 0
    expirations: int = 0
    """Expired entries found and dropped; the others wait for eviction."""
    removals: int = 0
    entries: int = 0
    weight: int = 0
    capacity: int = 0
    ghosts: int = 0
    """Keys remembered without a value."""
    promotions: int = 0
    """Values copied into this level from one below."""
    errors: int = 0
    """Calls that the level did not answer."""
    away: bool = False
    """Whether it does not answer at the moment; the other counts are then unknown."""


class Level(Protocol):
    """A place that keeps values. Any thread calls it, several at once.

    Every method may raise `LevelUnavailable`; `Levels` then goes on without the level.
    """

    @property
    def name(self) -> str:
        """The name in answers and statistics, such as ``l1``."""

    def get(self, key: str, /) -> Stored | None:
        """Return what is stored, or None for a miss; never what has expired."""

    def put(self, key: str, stored: Stored, origin: InsertOrigin) -> None:
        """Store, or overwrite."""

    def remove(self, key: str) -> bool:
        """Forget a key; return whether it was there."""

    def remove_where(self, predicate: Callable[[str], bool]) -> int:
        """Forget every key for which the predicate holds; return how many there were."""

    def clear(self) -> int:
        """Forget every key; return how many there were."""

    def stats(self) -> LevelStats:
        """Return the counts."""


class Found(NamedTuple):
    """A value that was found, and where."""

    value: Any
    level: str
    """The name of the level that answered."""
    created: float
    expires: float
    stale_for: float = 0.0
    """Seconds since the value became stale; 0: it is fresh."""


class Levels:
    """All levels as one cache. Any thread calls it, several at once.

    A level that raises `LevelUnavailable` is skipped and counted; no call ever fails for it.

    Args:
        levels: The levels in the order in which they are read: fastest first.
        clock: Wall-clock seconds, as ``time.time``.
    """

    def __init__(self, levels: Sequence[Level], *, clock: Callable[[], float] = time.time) -> None:
        names = [level.name for level in levels]
        if len(set(names)) != len(names):
            raise ValueError(f"Two levels have the same name: {names}.")
        self._levels = tuple(levels)
        # A value must reach, and leave, the lower levels first: else a look-up in between
        # would promote the old value to the upper levels once more.
        self._upwards = self._levels[::-1]
        self._clock = clock
        self._lock = threading.Lock()
        self._errors: Counter[str] = Counter()
        self._promotions: Counter[str] = Counter()

    def find(self, key: str) -> Found | None:
        """Return the value from the first level that has a fresh one, or None.

        The levels above get it too, with its remaining lifetime. If all that the levels have is
        stale, it is returned as such, from the level that has the youngest.
        """
        stale: Found | None = None
        for depth, level in enumerate(self._levels):
            try:
                stored = level.get(key)
            except LevelUnavailable:
                self._count(self._errors, level)
                continue
            if stored is None:
                continue
            now = self._clock()
            if stored.fresh_until <= now:
                if stored.expires > now and (stale is None or stored.created > stale.created):
                    stale = _found(stored, level, now - stored.fresh_until)
                continue
            if depth:
                if stored.expires <= now:
                    continue  # another host's clock is behind
                self._promote(key, stored, self._levels[:depth])
            return _found(stored, level)
        return stale

    def _promote(self, key: str, stored: Stored, above: Sequence[Level]) -> None:
        for level in above:
            try:
                level.put(key, stored, "promotion")
            except LevelUnavailable:
                self._count(self._errors, level)
            else:
                self._count(self._promotions, level)

    def store(
        self,
        key: str,
        value: Any,
        *,
        ttl: float,
        stale: float = 0.0,
        origin: InsertOrigin = "miss",
    ) -> None:
        """Store a value in every level.

        Args:
            key: Its key.
            value: The value; not None.
            ttl: Seconds that it is fresh from now on.
            stale: Seconds that it is kept after that.
            origin: Why it is stored.
        """
        now = self._clock()
        stored = Stored(value, now, now + ttl + stale, now + ttl)
        for level in self._upwards:
            try:
                level.put(key, stored, origin)
            except LevelUnavailable:
                self._count(self._errors, level)

    def remove(self, key: str) -> bool:
        """Forget a key in every level; return whether one had it."""
        return any(self._from_all(lambda level: level.remove(key)))

    def remove_where(self, predicate: Callable[[str], bool]) -> int:
        """Forget every key for which the predicate holds; O(entries).

        Returns:
            The most that one level removed, as levels hold the same keys.
        """
        return max(self._from_all(lambda level: level.remove_where(predicate)), default=0)

    def clear(self) -> int:
        """Forget everything; return the most that one level removed."""
        return max(self._from_all(lambda level: level.clear()), default=0)

    def _from_all(self, removal: Callable[[Level], int]) -> list[int]:
        removed = []
        for level in self._upwards:
            try:
                removed.append(removal(level))
            except LevelUnavailable:
                self._count(self._errors, level)
        return removed

    def stats(self) -> dict[str, LevelStats]:
        """Return the counts of each level by its name; mere errors for one that is away."""
        counted: dict[str, LevelStats] = {}
        for level in self._levels:
            try:
                counted[level.name] = level.stats()
            except LevelUnavailable:
                self._count(self._errors, level)
                counted[level.name] = LevelStats(away=True)
        with self._lock:
            return {
                name: replace(stats, promotions=self._promotions[name], errors=self._errors[name])
                for name, stats in counted.items()
            }

    def _count(self, counter: Counter[str], level: Level) -> None:
        with self._lock:
            counter[level.name] += 1


def _found(stored: Stored, level: Level, stale_for: float = 0.0) -> Found:
    return Found(stored.value, level.name, stored.created, stored.expires, stale_for)
