"""L1: the level in this process's memory, whose victims a policy chooses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from random import Random
from typing import Any, ClassVar, TypeAlias

from cache_app.core.levels import LevelStats, Stored
from plugins.contracts import Entry, EvictionPolicy, InsertOrigin, RemoveCause
from plugins.errors import PluginError

__all__ = ["MemoryLevel"]

_Get: TypeAlias = Callable[[str], Stored | None]

_GHOST = float("-inf")
_BUFFER = 64
"""How many hits are told at once to a policy of hit mode ``buffer``."""


class MemoryLevel:
    """A bounded level in memory. Any thread calls it, several at once.

    One dict holds residents and ghosts alike, so a hit is one look-up and one comparison. Hits
    take the lock only if the policy wants to hear of each (``call``); everything else takes it.
    An entry that has expired is dropped when a look-up finds it, or waits for eviction.

    Ghosts may weigh together (by what they weighed as residents) no more than the capacity; a
    victim beyond that is forgotten whatever the policy wants.

    Args:
        policy_factory: Returns the eviction policy; called once.
        capacity: The most that entries may weigh together.
        clock: Wall-clock seconds, as ``time.time``. It is read at every hit: no value is served
            late, however quiet the process.
        rng: The policy's randomness.
        weigh: Returns the weight of a value (1 at least); None: every entry weighs 1.
    """

    name = "l1"
    _table: ClassVar[type[dict[str, Any]]] = dict

    def __init__(
        self,
        policy_factory: Callable[[], EvictionPolicy],
        *,
        capacity: int,
        clock: Callable[[], float] = time.time,
        rng: Random | None = None,
        weigh: Callable[[Any], int] | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"The capacity must be at least 1, not {capacity}.")
        self.capacity = capacity
        self.rng = rng or Random()  # noqa: S311  (it samples victims, and guards no secret)
        self._clock = clock
        self._weigh = weigh
        self._lock = threading.Lock()
        self._entries = self._table()
        self._weight = self._ghosts = self._ghost_weight = 0
        self._insertions = self._rejected = self._evictions = 0
        self._expirations = self._removals = 0
        self._policy = policy_factory()
        self._new_entry = _entry_class(self._policy)
        self._drain: Callable[[], None] = _nothing
        self._policy.attach(self)
        self.get: _Get
        """Returns what is stored under a key, or None for a miss. Made for the hit mode."""
        self._asked: Callable[[], tuple[int, int]]
        self.get, self._asked = self._make_get()

    # --- Looking up ---

    def _make_get(self) -> tuple[_Get, Callable[[], tuple[int, int]]]:  # noqa: PLR0915  (5 in 1)
        """Return `get` for the policy's hit mode, and what returns its hits and misses.

        Closures, as a method would look everything up on ``self`` at each hit. A miss is an
        exception: that costs more than ``dict.get`` would, but a hit costs less, and after a
        miss comes a model. The counts are exact under the GIL; a flag or a step of ``ref`` may
        be lost between threads.
        """
        entries, clock, lock, expire = self._entries, self._clock, self._lock, self._expire
        policy = self._policy
        hits = misses = 0

        def missed(entry: Any = None) -> Stored | None:
            nonlocal misses
            misses += 1
            if entry is not None and entry.expires != _GHOST:
                with lock:
                    expire(entry)
            return None

        def get_none(key: str) -> Stored | None:
            nonlocal hits
            try:
                entry = entries[key]
            except KeyError:
                return missed()
            if entry.expires <= clock():
                return missed(entry)
            hits += 1
            return entry.value  # type: ignore[no-any-return]

        def get_flag(key: str) -> Stored | None:
            nonlocal hits
            try:
                entry = entries[key]
            except KeyError:
                return missed()
            if entry.expires <= clock():
                return missed(entry)
            entry.ref = 1
            hits += 1
            return entry.value  # type: ignore[no-any-return]

        cap = policy.count_cap

        def get_count(key: str) -> Stored | None:
            nonlocal hits
            try:
                entry = entries[key]
            except KeyError:
                return missed()
            if entry.expires <= clock():
                return missed(entry)
            if entry.ref < cap:
                entry.ref += 1
            hits += 1
            return entry.value  # type: ignore[no-any-return]

        buffer: list[Any] = []

        def drain() -> None:
            nonlocal buffer
            batch, buffer = buffer, []
            if batch:
                policy.on_hits(batch, clock())

        def get_buffer(key: str) -> Stored | None:
            nonlocal hits
            try:
                entry = entries[key]
            except KeyError:
                return missed()
            if entry.expires <= clock():
                return missed(entry)
            hits += 1
            buffer.append(entry)
            if len(buffer) >= _BUFFER:
                with lock:
                    drain()
            return entry.value  # type: ignore[no-any-return]

        on_hit = policy.on_hit

        def get_call(key: str) -> Stored | None:
            nonlocal hits, misses
            with lock:
                try:
                    entry = entries[key]
                except KeyError:
                    misses += 1
                    return None
                now = clock()
                if entry.expires <= now:
                    misses += 1
                    if entry.expires != _GHOST:
                        expire(entry)
                    return None
                on_hit(entry, now)
                hits += 1
                return entry.value  # type: ignore[no-any-return]

        gets: dict[str, _Get] = {
            "none": get_none,
            "flag": get_flag,
            "count": get_count,
            "buffer": get_buffer,
            "call": get_call,
        }
        if policy.hit_mode not in gets:
            raise PluginError(
                f"{type(policy).__name__} declares hit_mode {policy.hit_mode!r}; "
                f"there are {', '.join(gets)}."
            )
        if policy.hit_mode == "buffer":
            self._drain = drain
        return gets[policy.hit_mode], lambda: (hits, misses)

    def peek(self, key: str) -> Entry | None:
        """Return the entry of a key that `get` would serve; nobody hears of it."""
        entry: Entry | None = self._entries.get(key)
        return entry if entry is not None and entry.expires > self._clock() else None

    def __len__(self) -> int:
        return len(self._entries) - self._ghosts

    # --- Storing ---

    def put(self, key: str, stored: Stored, origin: InsertOrigin = "miss") -> None:
        """Store a value, and evict until everything fits.

        A value that is heavier than the capacity, or has expired already, is refused; what it
        should have replaced is dropped all the same.

        Raises:
            PluginError: The policy did not name a resident as victim; the value is not stored.
        """
        weight = 1 if self._weigh is None else max(1, self._weigh(stored.value))
        with self._lock:
            now = self._clock()
            self._drain()
            entry: Any = self._entries.get(key)
            resident = entry is not None and entry.expires != _GHOST
            if weight > self.capacity or stored.expires <= now:
                self._rejected += 1
                if resident:
                    self._leave(entry, "invalidated")
                return
            new = entry is None
            if new:
                entry = self._new_entry(key)
            elif resident:
                self._policy.on_remove(entry, "replaced")
                self._weight -= entry.weight
            else:
                entry.was_ghost = True
                self._count_ghost(entry, -1)
            # The value first: a look-up on another thread must never serve the old one under the
            # new expiry. A new entry shows itself only when it is complete.
            entry.value = stored
            entry.expires = stored.expires
            entry.weight = weight
            self._weight += weight
            self._insertions += 1
            self._policy.on_insert(entry, now, origin)
            entry.was_ghost = False
            if new:
                self._entries[key] = entry
            while self._weight > self.capacity:
                self._evict(entry, now)

    def _evict(self, newcomer: Any, now: float) -> None:
        """Take one victim out. It is a resident, or the loop of `put` would not end."""
        victim: Any = None
        try:
            victim = self._policy.evict(now)
            known = self._entries.get(victim.key) is victim
            if not known or victim.expires == _GHOST:
                raise LookupError(f"it chose {victim.key!r}, which is not resident")
        except Exception as error:
            self._forget(newcomer)  # the policy is beyond trust, but the capacity holds
            raise PluginError(f"{type(self._policy).__name__} cannot evict: {error}") from error
        self._evictions += 1
        if victim.keep_ghost:
            victim.keep_ghost = False
            if self._ghost_weight + victim.weight <= self.capacity:
                self._weight -= victim.weight
                self._count_ghost(victim, 1)
                victim.expires = _GHOST
                victim.value = None
                return
        self._forget(victim)

    def drop_ghost(self, entry: Entry) -> None:
        """Forget a ghost; the policy calls it, under the lock. Again does nothing."""
        if entry.expires == _GHOST and self._entries.get(entry.key) is entry:
            del self._entries[entry.key]
            self._count_ghost(entry, -1)

    def _count_ghost(self, entry: Entry, change: int) -> None:
        self._ghosts += change
        self._ghost_weight += change * entry.weight

    # --- Removing ---

    def remove(self, key: str, cause: RemoveCause = "explicit") -> bool:
        """Forget a key; return whether it was resident."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.expires == _GHOST:
                return False
            self._leave(entry, cause)
            return True

    def remove_where(self, predicate: Callable[[str], bool]) -> int:
        """Forget every key that was stored before the call and for which the predicate holds.

        O(entries). The predicate runs without the lock, so that look-ups and stores go on.
        """
        return sum(self.remove(key, "invalidated") for key in list(self._entries) if predicate(key))

    def clear(self) -> int:
        """Forget every resident; return how many there were. Ghosts, which hold no value, stay."""
        return self.remove_where(lambda _: True)

    def _expire(self, entry: Any) -> None:
        """Drop an expired entry, unless another thread did, or stored a new value meanwhile."""
        if _GHOST < entry.expires <= self._clock():
            self._leave(entry, "expired")

    def _leave(self, entry: Any, cause: RemoveCause) -> None:
        self._policy.on_remove(entry, cause)
        self._forget(entry)
        if cause == "expired":
            self._expirations += 1
        else:
            self._removals += 1

    def _forget(self, entry: Any) -> None:
        """Take a resident out of the dict. Marked as gone, for threads and heaps that hold it."""
        del self._entries[entry.key]
        self._weight -= entry.weight
        entry.expires = _GHOST
        entry.value = None

    # --- Looking at it all ---

    def stats(self) -> LevelStats:
        """Return the counts."""
        with self._lock:
            hits, misses = self._asked()
            return LevelStats(
                hits=hits,
                misses=misses,
                insertions=self._insertions,
                rejected=self._rejected,
                evictions=self._evictions,
                expirations=self._expirations,
                removals=self._removals,
                entries=len(self),
                weight=self._weight,
                capacity=self.capacity,
                ghosts=self._ghosts,
            )

    def check(self) -> None:
        """Verify every invariant of the level, then of its policy; O(entries).

        Raises:
            AssertionError: One does not hold.
        """
        with self._lock:
            residents = [e for e in self._entries.values() if e.expires != _GHOST]
            ghosts = [e for e in self._entries.values() if e.expires == _GHOST]
            assert all(entry.key == key for key, entry in self._entries.items()), "a wrong key"
            assert all(entry.value is None for entry in ghosts), "a ghost has a value"
            assert all(entry.value is not None for entry in residents), "a value is missing"
            assert self._weight == sum(entry.weight for entry in residents), "the weight is wrong"
            assert self._weight <= self.capacity, "the entries weigh more than the capacity"
            assert self._ghosts == len(ghosts), "ghosts are miscounted"
            assert self._ghost_weight == sum(e.weight for e in ghosts), "the ghosts' weight is off"
            assert self._ghost_weight <= self.capacity, "ghosts weigh more than the capacity"
            self._policy.check()


def _nothing() -> None:
    """Drain no buffer: the hit mode has none."""


class _Entry:
    """What L1 itself keeps of an entry."""

    __slots__ = ("expires", "keep_ghost", "key", "value", "was_ghost", "weight")

    def __init__(self, key: str) -> None:
        self.key = key
        self.was_ghost = self.keep_ghost = False


class _CountedEntry(_Entry):
    """An entry whose hits are a flag or a small count."""

    __slots__ = ("ref",)

    def __init__(self, key: str) -> None:
        self.key = key
        self.was_ghost = self.keep_ghost = False
        self.ref = 0


def _entry_class(policy: EvictionPolicy) -> Callable[[str], Any]:
    """Return the class of entries that have the policy's slots too."""
    if taken := set(policy.entry_slots) & set(_Entry.__slots__):
        raise PluginError(
            f"{type(policy).__name__} declares entry_slots that L1 owns: {', '.join(taken)}."
        )
    if policy.hit_mode in {"flag", "count"}:
        slots = tuple(slot for slot in policy.entry_slots if slot != "ref")
        return type("Entry", (_CountedEntry,), {"__slots__": slots})
    return type("Entry", (_Entry,), {"__slots__": policy.entry_slots})
