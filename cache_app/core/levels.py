"""The levels of the cache: one contract for all of them, read through in order."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeAlias

from cache_app.core.steps import Steps, done, run
from cache_app.core.tiers import TIERS, Tier, Tiers
from plugins.contracts import InsertOrigin
from plugins.errors import LevelUnavailable

__all__ = ["Found", "Known", "Level", "LevelStats", "Levels", "Stored"]


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
    cost: float | None = None
    """Seconds that computing the value took; None: not known. Levels below L1 do not keep it."""

    @property
    def life(self) -> tuple[float, float]:
        """Return the seconds from creation to the end of freshness, and from there to expiry."""
        if self.fresh_until >= self.expires:
            return self.expires - self.created, 0.0
        return self.fresh_until - self.created, self.expires - self.fresh_until


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
    hot: int = 0
    """Entries of the tier when the level last looked; only L1 looks at their use."""
    warm: int = 0
    cold: int = 0
    cooled: int = 0
    """Entries that left because nobody asked for them any more, and levels below have them."""
    away: bool = False
    """Whether it does not answer at the moment; the other counts are then unknown."""
    nodes: int = 0
    """Servers that the level consists of; 0: it consists of none."""
    nodes_away: int = 0
    """Servers among them that do not answer at the moment."""


class Level(Protocol):
    """A place that keeps values. Any thread calls it, several at once.

    Every method may raise `LevelUnavailable`; `Levels` then goes on without the level. One whose
    ``get`` may wait for a server says so by an attribute ``waits``, which is true, and can do
    what ``get``, ``put`` and ``remove`` do in steps, by ``getting``, ``putting`` and ``removing``.
    """

    @property
    def name(self) -> str:
        """The name in answers and statistics, such as ``l1``."""

    def get(self, key: str, /) -> Stored | None:
        """Return what is stored, or None for a miss; never what has expired.

        L1 returns its entry, which has the same attributes, and which another thread may change:
        read ``expires``, then ``life``, then ``value``, which is None if the entry has left.
        """

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


Look: TypeAlias = tuple[tuple[int, Level], ...]
"""Levels, with how many are above each: see `Levels.find`."""


class Found(NamedTuple):
    """A value that was found, and where."""

    value: Any
    level: str
    """The name of the level that answered."""
    created: float
    expires: float
    stale_for: float = 0.0
    """Seconds since the value became stale; 0: it is fresh."""


@dataclass(frozen=True, slots=True)
class Known:
    """A value that the levels have, as `Levels.known` sees it."""

    value: Any
    created: float
    """Wall-clock instant at which it was computed."""
    fresh_for: float
    """Seconds that it stays fresh; negative: it is stale."""


_new_found: Callable[[tuple[Any, str, float, float, float]], Found]
_new_found = functools.partial(tuple.__new__, Found)  # a third of what calling the class costs


def getting(level: Level, key: str) -> Steps[Stored | None]:
    """Return what a level's ``get`` does, in steps."""
    steps = getattr(level, "getting", None)
    return done(level.get, key) if steps is None else steps(key)


def putting(level: Level, key: str, stored: Stored, origin: InsertOrigin) -> Steps[None]:
    """Do what a level's ``put`` does, in steps."""
    steps = getattr(level, "putting", None)
    return done(level.put, key, stored, origin) if steps is None else steps(key, stored, origin)


def removing(level: Level, key: str) -> Steps[bool]:
    """Do what a level's ``remove`` does, in steps."""
    steps = getattr(level, "removing", None)
    return done(level.remove, key) if steps is None else steps(key)


def _always_warm(_: str) -> Tier:
    return "warm"


class Levels:
    """All levels as one cache. Any thread calls it, several at once.

    A level that raises `LevelUnavailable` is skipped and counted; no call ever fails for it.

    Args:
        levels: The levels in the order in which they are read: fastest first.
        clock: Wall-clock seconds, as ``time.time``.
        tiers: What follows from a key's tier; None: nothing does, and every level has everything.
        tier_of: Returns the tier of a key that is stored, from its use until now.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        *,
        clock: Callable[[], float] = time.time,
        tiers: Tiers | None = None,
        tier_of: Callable[[str], Tier] = _always_warm,
    ) -> None:
        names = [level.name for level in levels]
        if len(set(names)) != len(names):
            raise ValueError(f"Two levels have the same name: {names}.")
        self._levels = tuple(levels)
        self._all = tuple(enumerate(levels))
        # Only a level in memory has one; L1's changes when it is divided.
        self._first: Any = levels[0] if levels and hasattr(levels[0], "peek") else None
        waiting = [depth for depth, level in self._all if getattr(level, "waits", False)]
        first = min(waiting, default=len(self._all))
        self.quick: Look = self._all[:first]
        """Where an event loop may look: the levels before the first that may wait for a server."""
        self.slow: Look = self._all[first:]
        """The others."""
        # A value must reach, and leave, the lower levels first: else a look-up in between
        # would promote the old value to the upper levels once more.
        self._upwards = self._levels[::-1]
        self._clock = clock
        self._tiers = tiers
        self._tier_of = tier_of
        self._held_by: dict[Tier, frozenset[str]] = {
            tier: frozenset(names) if tiers is None else tiers.held_by(tier, names)
            for tier in TIERS
        }
        self._lock = threading.Lock()
        self._errors: Counter[str] = Counter()
        self._promotions: Counter[str] = Counter()

    def find(self, key: str, *, among: Look | None = None) -> Found | None:
        """Return the value from the first level that has a fresh one, or None.

        The levels above get it too, with its remaining lifetime. If all that the levels have is
        stale, it is returned as such, from the level that has the youngest.

        Args:
            key: Its key.
            among: Where to look: `quick`, `slow`; None: everywhere.
        """
        return run(self.finding(key, among=among))

    def finding(
        self, key: str, *, among: Look | None = None, stale: Found | None = None
    ) -> Steps[Found | None]:
        """Do what `find` does, in steps; ``stale`` is what was found elsewhere."""
        clock = self._clock
        for depth, level in self._all if among is None else among:
            try:
                if depth < len(self.quick):
                    stored = level.get(key)
                else:
                    stored = yield from getting(level, key)
            except LevelUnavailable:
                self._count(self._errors, level)
                continue
            if stored is None:
                continue
            expires = stored.expires  # in this order: it may be L1's entry
            life = stored.life
            value = stored.value
            if value is None:
                continue  # it has left L1 since
            fresh_until = expires - life[1]
            now = clock()
            if fresh_until <= now:
                created = fresh_until - life[0]
                if expires > now and (stale is None or created > stale.created):
                    stale = Found(value, level.name, created, expires, now - fresh_until)
                continue
            if depth:
                yield from self._promoting(key, stored, self._levels[:depth])
            return _new_found((value, level.name, fresh_until - life[0], expires, 0.0))
        return stale

    def known(self, key: str) -> Known | None:
        """Return the freshest that the levels have under a key, however stale, or None.

        It is no use of the key: L1 does not hear of it, and nothing is promoted.
        """
        best: Known | None = None
        now = self._clock()
        for level in self._levels:
            try:
                held = getattr(level, "peek", level.get)(key)
            except LevelUnavailable:
                self._count(self._errors, level)
                continue
            if held is None:
                continue
            expires, life, value = held.expires, held.life, held.value  # as in `find`
            fresh_for = expires - life[1] - now
            if value is not None and (best is None or fresh_for > best.fresh_for):
                best = Known(value, expires - life[1] - life[0], fresh_for)
        return best

    def peek(self, key: str) -> Found | None:
        """Return the fresh value that the first level has at hand, or None; nobody hears of it.

        It waits for nothing and counts nothing; `touch` does, for a value that is then used. None
        says only that `find` must be asked.
        """
        if self._first is None:
            return None
        stored = self._first.peek(key)
        if stored is None:
            return None
        expires = stored.expires  # in this order, as in `find`
        life = stored.life
        value = stored.value
        fresh_until = expires - life[1]
        if value is None or fresh_until <= self._clock():
            return None
        return _new_found((value, self._levels[0].name, fresh_until - life[0], expires, 0.0))

    def touch(self, key: str) -> None:
        """Let the first level count, and its policy hear of, the use of what `peek` returned."""
        self._levels[0].get(key)

    def age(self, found: Found) -> float:
        """Return the seconds since a value was computed."""
        return max(0.0, self._clock() - found.created)

    def _promoting(self, key: str, stored: Stored, above: Sequence[Level]) -> Steps[None]:
        for level in above:
            if level.name not in self._held_by["warm"]:  # it was just used
                continue
            try:
                yield from putting(level, key, stored, "promotion")
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
        cost: float | None = None,
    ) -> None:
        """Store a value in every level that holds the key's tier; the others forget the old one.

        Args:
            key: Its key.
            value: The value; not None.
            ttl: Seconds that it is fresh from now on, in the tier ``warm``; other tiers may have
                it fresh for longer or shorter, and expire at the same time.
            stale: Seconds that it is kept after that.
            origin: Why it is stored.
            cost: Seconds that computing it took; None: not known.
        """
        run(self.storing(key, value, ttl=ttl, stale=stale, origin=origin, cost=cost))

    def storing(
        self,
        key: str,
        value: Any,
        *,
        ttl: float,
        stale: float,
        origin: InsertOrigin,
        cost: float | None,
    ) -> Steps[None]:
        """Do what `store` does, in steps."""
        tier: Tier = "warm"
        now = self._clock()
        expires = now + ttl + stale
        if self._tiers is not None:
            tier = self._tier_of(key)
            ttl = self._tiers.ttl(tier, ttl, stale)
        stored = Stored(value, now, expires, now + ttl, cost)
        held_by = self._held_by[tier]
        for level in self._upwards:
            try:
                if level.name in held_by:
                    yield from putting(level, key, stored, origin)
                else:
                    yield from removing(level, key)
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
