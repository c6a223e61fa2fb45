"""L1 divided: partitions of a fixed share each, so that no group of keys crowds out another.

A partition is a `MemoryLevel` with a policy and a capacity of its own. What belongs to none is in
the rest. Shares change at run time: what is in levels of another size moves, entry by entry and
with its remaining lifetime, when it is asked for, stored, or when `settle` comes to it.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from cache_app.core.entries import EntryDetails
from cache_app.core.levels import LevelStats, Stored
from cache_app.core.memory import MemoryLevel
from cache_app.core.tiers import Tier
from plugins.contracts import InsertOrigin

__all__ = ["REST", "PartitionedMemory", "Share"]

REST = "all"
"""The name of the part of L1 that everything has together which has no share of its own."""
MOST = 0.99
"""Of the capacity that partitions may have together, whatever is asked for."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a partition gets."""

    part: float
    """Of L1's capacity, above 0 and below 1."""
    policy: str = ""
    """The eviction policy, by its plugin's name; empty: L1's."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the policy."""


@dataclass(frozen=True, slots=True)
class _Partition:
    """One level and what it was made for."""

    name: str
    share: Share | None
    level: MemoryLevel


@dataclass(slots=True)
class _Leaving:
    """A level whose entries are to move, and those that have not yet."""

    partition: _Partition
    keys: Iterator[str]


class PartitionedMemory:
    """L1, in one piece or divided. Any thread calls it; its shares are changed by one at a time.

    In one piece, its ``get`` is that of its one `MemoryLevel`, and costs nothing more.

    Args:
        make: Returns an empty level of a capacity; of a share, with its policy. It may raise
            `PluginError`.
        capacity: Of all parts together.
        part_of: Returns the name of the partition that a key would belong to.
    """

    name = "l1"

    def __init__(
        self,
        make: Callable[[int, Share | None], MemoryLevel],
        *,
        capacity: int,
        part_of: Callable[[str], str],
    ) -> None:
        self._make = make
        self.capacity = capacity
        self._part_of = part_of
        self._lock = threading.Lock()
        self._rest = _Partition(REST, None, make(capacity, None))
        self._parts: dict[str, _Partition] = {}
        self._leaving: list[_Leaving] = []
        self._division = 0
        self._gone: defaultdict[str, LevelStats] = defaultdict(LevelStats)
        self.get: Callable[[str], Any] = self._rest.level.get
        """Returns the entry under a key, or None for a miss: see `MemoryLevel.get`."""
        self.peek: Callable[[str], Any] = self._rest.level.peek
        """Returns the entry of a key that `get` would serve; nobody hears of it."""

    # --- Dividing ---

    def divide(self, shares: Mapping[str, Share]) -> None:
        """Give each partition its share, and the rest what is left. Levels that fit stay.

        Shares that leave less than a hundredth for the rest are reduced together.

        Raises:
            PluginError: A policy cannot be made; nothing has changed.
        """
        asked = sum(share.part for share in shares.values())
        scale = min(1.0, MOST / asked) if asked else 1.0
        capacities = {
            name: max(1, int(self.capacity * share.part * scale + 1e-6))
            for name, share in shares.items()
        }
        parts = {
            name: self._fitting(name, shares[name], self._parts.get(name), capacity)
            for name, capacity in capacities.items()
        }
        left = max(1, self.capacity - sum(capacities.values()))
        rest = self._fitting(REST, None, self._rest, left)
        with self._lock:
            self._division += 1  # before the keys are read: see `put`
            stay = {id(each.level) for each in (rest, *parts.values())}
            for old in (self._rest, *self._parts.values()):
                if id(old.level) not in stay:
                    self._leaving.append(_Leaving(old, iter(old.level.resident_keys())))
            self._parts, self._rest = parts, rest
            self._trim()
            self._choose_get()

    def _fitting(
        self, name: str, share: Share | None, old: _Partition | None, capacity: int
    ) -> _Partition:
        """Return a partition of this size and policy: the one there is, if it fits."""
        if old is not None and old.level.capacity == capacity:
            same = (share is None) == (old.share is None) and (
                share is None
                or old.share is None
                or (share.policy, share.options) == (old.share.policy, old.share.options)
            )
            if same:
                return replace(old, share=share)
        return _Partition(name, share, self._make(capacity, share))

    def _choose_get(self) -> None:
        """Look up in the way that is the shortest now."""
        rest_get = self._rest.level.get
        whole = not (self._leaving or self._parts)
        self.peek = self._rest.level.peek if whole else self._peek_in_all
        if self._leaving:
            self.get = self._get_moving
        elif not self._parts:
            self.get = rest_get
        else:
            gets = {name: part.level.get for name, part in self._parts.items()}
            part_of = self._part_of

            def get(key: str) -> Any:
                return gets.get(part_of(key), rest_get)(key)

            self.get = get

    def settle(self, n: int) -> bool:
        """Move some entries to where they belong since shares have changed.

        Args:
            n: How many, at most.

        Returns:
            Whether all are there.
        """
        while n > 0 and self._leaving:
            leaving = self._leaving[0]
            keys = list(itertools.islice(leaving.keys, n))
            for key in keys:
                self._move(key)
            n -= len(keys)
            if not keys:
                with self._lock:
                    self._leaving.remove(leaving)
                    self._retire(leaving.partition)
                    self._choose_get()
        return not self._leaving

    def _retire(self, partition: _Partition) -> None:
        """Remember what a level counted that is no more; counts never fall."""
        nothing: dict[str, Any] = dict.fromkeys(_OF_NOW, 0)
        counted = replace(partition.level.stats(), **nothing)
        self._gone[partition.name] = _sum([self._gone[partition.name], counted])

    def _move(self, key: str) -> None:
        with self._lock:
            for leaving in self._leaving:
                old = leaving.partition.level
                entry: Any = old.peek(key)
                if entry is None:
                    continue
                created, fresh_until, expires = entry.instants
                value, cost = entry.value, getattr(entry, "cost", None)
                old.remove(key)
                level = self._level(key)
                if value is not None and level.peek(key) is None:
                    level.put(key, Stored(value, created, expires, fresh_until, cost), "promotion")

    def _trim(self) -> None:
        """Let go of what has not moved, until all parts together fit. The lock is held."""
        while self._leaving and self.weight > self.capacity:
            leaving = self._leaving[0]
            key = next(leaving.keys, None)
            if key is not None:
                leaving.partition.level.remove(key)
                continue
            self._leaving.pop(0)
            self._retire(leaving.partition)
            self._choose_get()

    def tend(self, tend: Callable[[MemoryLevel], bool]) -> None:
        """Let someone give levels other policies, who says of which he did.

        Raises:
            Exception: What he raises; what he did until then is done.
        """
        changed = False
        try:
            for level in self._levels():
                changed |= tend(level)
        finally:
            if changed:
                with self._lock:
                    self._choose_get()

    # --- The level ---

    def _level(self, key: str) -> MemoryLevel:
        return self._parts.get(self._part_of(key), self._rest).level

    def _levels(self) -> list[MemoryLevel]:
        """Return every level; those that are left first, from which entries move to the others."""
        return [
            *(each.partition.level for each in self._leaving),
            *(each.level for each in (self._rest, *self._parts.values())),
        ]

    def _get_moving(self, key: str) -> Any:
        if self._level(key).peek(key) is None:
            self._move(key)
        return self._level(key).get(key)

    def put(self, key: str, stored: Stored, origin: InsertOrigin = "miss") -> None:
        """Store a value, and evict from its part until everything fits; see `MemoryLevel.put`."""
        division = self._division
        if not self._leaving:
            self._level(key).put(key, stored, origin)
            if self._division == division:
                return  # else it may be in a level that has just been left
        with self._lock:
            for leaving in self._leaving:
                leaving.partition.level.remove(key)
            self._level(key).put(key, stored, origin)
            self._trim()

    def remove(self, key: str) -> bool:
        """Forget a key; return whether it was resident."""
        with self._lock:
            removed = [level.remove(key) for level in self._levels()]
        return any(removed)

    def remove_where(self, predicate: Callable[[str], bool]) -> int:
        """Forget every key for which the predicate holds; O(entries)."""
        return sum(level.remove_where(predicate) for level in self._levels())

    def clear(self) -> int:
        """Forget every resident; return how many there were."""
        return sum(level.clear() for level in self._levels())

    def _peek_in_all(self, key: str) -> Any:
        found = (level.peek(key) for level in reversed(self._levels()))
        return next((entry for entry in found if entry is not None), None)

    def describe(self, key: str) -> EntryDetails | None:
        """Return all that is known of an entry that `get` would serve; nobody hears of it."""
        found = (level.describe(key) for level in reversed(self._levels()))
        return next((entry for entry in found if entry is not None), None)

    def tier_of(self, key: str) -> Tier:
        """Return the tier in which a value stored now would be; ``warm`` for a new key."""
        return self._level(key).tier_of(key)

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Let the policies age what they learned: see `MemoryLevel.on_generation`."""
        for level in self._levels():
            level.on_generation(namespace, old, new)

    def __len__(self) -> int:
        return sum(len(level) for level in self._levels())

    def resident_keys(self) -> list[str]:
        """Return the keys of the residents; O(entries)."""
        return [key for level in self._levels() for key in level.resident_keys()]

    @property
    def weight(self) -> int:
        """What all entries weigh together."""
        return sum(level.weight for level in self._levels())

    def stats(self) -> LevelStats:
        """Return the counts of all parts together; O(entries)."""
        return replace(_sum(list(self.partitions().values())), capacity=self.capacity)

    def partitions(self) -> dict[str, LevelStats]:
        """Return the counts of each part by name, of those, too, that there were; O(entries)."""
        with self._lock:
            counted = defaultdict(LevelStats, self._gone)
            now = [self._rest, *self._parts.values()]
            leaving = [each.partition for each in self._leaving]
        for part in now:
            counted[part.name] = _sum([counted[part.name], part.level.stats()])
        for part in leaving:  # its capacity is the others' already
            stats = replace(part.level.stats(), capacity=0)
            counted[part.name] = _sum([counted[part.name], stats])
        return dict(counted)

    def check(self) -> None:
        """Verify every invariant; O(entries).

        Raises:
            AssertionError: One does not hold.
        """
        for level in self._levels():
            level.check()
        capacities = [each.level.capacity for each in (self._rest, *self._parts.values())]
        assert sum(capacities) <= max(self.capacity, len(capacities)), "the parts are too large"
        for part in self._parts.values():
            assert all(self._part_of(key) == part.name for key in part.level.resident_keys()), (
                "misplaced"
            )


_OF_NOW = ("entries", "weight", "capacity", "ghosts", "hot", "warm", "cold")
"""What a level that is no more has none of."""
_COUNTED = [each.name for each in fields(LevelStats) if each.name != "away"]


def _sum(parts: list[LevelStats]) -> LevelStats:
    return LevelStats(**{name: sum(getattr(part, name) for part in parts) for name in _COUNTED})
