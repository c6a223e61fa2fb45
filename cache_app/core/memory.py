"""L1: the level in this process's memory, whose victims a policy chooses."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any, ClassVar, TypeAlias

from cache_app.core.entries import GHOST, EntryDetails, entry_class, life_of, rounded
from cache_app.core.guards import Failed, PolicyGuard
from cache_app.core.hit_modes import make_get
from cache_app.core.levels import LevelStats, Stored
from cache_app.core.tiers import TIERS, Tier, Tiers
from plugins.contracts import (
    AdmissionFilter,
    Candidate,
    Entry,
    EvictionPolicy,
    InsertOrigin,
    RemoveCause,
)
from plugins.errors import PluginError

__all__ = ["MemoryLevel"]

_Get: TypeAlias = Callable[[str], Stored | None]

_SWEEP_SECONDS = 10.0
"""Between two sweeps at least."""
_SWEEP_SHARE = 100.0
"""A sweep that takes long is followed by a pause this many times as long."""


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
        tiers: The rules by which entries are hot, warm or cold.
        admission: Returns the filters of what is stored; called once.
        keeps: The tiers that stay here; a sweep takes out what has come to be of another one.
        size_of: Returns what a value takes encoded, in bytes, for `describe`; None: not known.
        failed: Told of what the policy raises, which then goes no further; None: it does.
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
        tiers: Tiers | None = None,
        admission: Callable[[], Sequence[AdmissionFilter]] = tuple,
        keeps: Collection[Tier] = TIERS,
        size_of: Callable[[Any], int] | None = None,
        failed: Failed | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"The capacity must be at least 1, not {capacity}.")
        self.capacity = capacity
        self.rng = rng or Random()  # noqa: S311  (it samples victims, and guards no secret)
        self._clock = clock
        self._weigh = weigh
        self._tiers = tiers or Tiers()
        self._keeps = frozenset(keeps)
        self._size_of = size_of
        self._lock = threading.Lock()
        self._weight = self._ghosts = self._ghost_weight = 0
        self._insertions = self._rejected = self._evictions = 0
        self._expirations = self._removals = self._cooled = 0
        self._hits_of_the_gone = 0  # what entries counted that left, or were renewed, since
        self._in_tier: Counter[str] = Counter()  # as of the last sweep
        self._next_sweep = float("-inf")
        self._tick = float("-inf")  # a recent instant that new entries share
        self._warmed: dict[str, Any] = {}  # warmed and not asked for yet, the oldest first
        self._mean_cost = 1.0
        self._misses_before = 0  # those of the policies before this one
        self._install(policy_factory(), failed, self._table())
        self.replace_filters(admission())

    def _install(
        self, policy: EvictionPolicy, failed: Failed | None, entries: dict[str, Any]
    ) -> None:
        guard = None if failed is None else PolicyGuard(policy, failed)
        asked = policy if guard is None else guard.as_policy()
        new_entry, marks = entry_class(policy, weighed=self._weigh is not None)
        policy.attach(self)
        how = (asked, entries, self._clock, self._lock, self._expire)
        made = make_get(*how, failed=None if guard is None else guard.fail)
        if guard is not None:
            guard.mute = made.mute
        # A bad policy has raised by now, and changed nothing.
        self._entries, self._policy, self._guard = entries, asked, guard
        self._new_entry, self._marks = new_entry, marks
        self._takes_cost = "cost" in policy.entry_slots
        self._counts_in_ref = policy.hit_mode in {"flag", "count"}
        self.get: _Get = made.get
        """Returns the entry under a key, or None for a miss. Made for the hit mode.

        It is the entry itself, and no copy: another thread may renew it, or take it out, while
        the caller looks. Read ``expires``, ``life`` and ``value``, in this order; a ``value`` of
        None is a miss.
        """
        self._misses, self._drain, self._stamp = made.misses, made.drain, made.stamp

    def replace_policy(self, policy: EvictionPolicy, failed: Failed | None = None) -> None:
        """Let another policy choose the victims from now on; it is told of all that is stored.

        O(entries), under the lock. The entries move into a new table, as each policy has slots of
        its own in them: a look-up that is under way ends in the old one.

        Raises:
            PluginError: The policy declares nonsense; the one before stays.
        """
        with self._lock:
            now, before, warmed = self._clock(), self._entries, self._warmed
            misses = self._misses()
            self._install(policy, failed, self._table())
            self._misses_before += misses
            self._weight = self._ghosts = self._ghost_weight = 0
            for entry in before.values():
                if entry.expires > now:
                    self._move_in(entry, now)
                elif entry.expires != GHOST:
                    self._hits_of_the_gone += entry.uses
            self._warmed = {key: self._entries[key] for key in warmed if key in self._entries}

    @property
    def policy_failed(self) -> bool:
        """Whether the policy has failed: nothing is evicted then, and L1 takes what still fits."""
        return self._guard is not None and self._guard.broken

    def _move_in(self, old: Any, now: float) -> None:
        """Store what an entry of the policy before has."""
        entry = self._empty_entry(old.key)
        entry.uses, entry.used = old.uses, old.used
        entry.value, entry.life, entry.expires = old.value, old.life, old.expires
        if self._weigh is not None:
            entry.weight = old.weight
        if self._stamp is not None:
            entry.ref = self._stamp()
        if self._takes_cost:
            entry.cost = self._mean_cost
        self._weight += entry.weight
        self._policy.on_insert(entry, now, "promotion")
        self._entries[entry.key] = entry

    def _empty_entry(self, key: str) -> Any:
        entry = self._new_entry(key)
        if self._counts_in_ref:
            entry.ref = 0  # the policy sets it, unless it fails
        return entry

    def replace_filters(self, filters: Sequence[AdmissionFilter]) -> None:
        """Let these filters say what is stored from now on."""
        for each in filters:
            each.attach(self)
        with self._lock:
            self._filters = tuple(filters)
            self._sized = any(each.needs_size for each in filters)

    # --- Looking up ---

    def peek(self, key: str) -> Entry | None:
        """Return the entry of a key that `get` would serve; nobody hears of it."""
        entry: Entry | None = self._entries.get(key)
        return entry if entry is not None and entry.expires > self._clock() else None

    def describe(self, key: str) -> EntryDetails | None:
        """Return all that is known of an entry that `get` would serve; nobody hears of it."""
        with self._lock:
            entry: Any = self.peek(key)
            if entry is None:
                return None
            now = self._clock()
            created, fresh_until, expires = entry.instants
            value, uses, used, life = entry.value, entry.uses, entry.used, entry.life
        return EntryDetails(
            key=key,
            value=value,
            created=created,
            ttl=life.ttl,
            fresh_until=fresh_until,
            expires=expires,
            uses=uses,
            last_used=used,
            size=None if self._size_of is None else self._size_of(value),
            tier=self._tiers.of(uses, now - used, life.tier),
        )

    def tier_of(self, key: str) -> Tier:
        """Return the tier in which a value stored now would be; ``warm`` for a new key."""
        entry: Any = self._entries.get(key)
        if entry is None or entry.expires == GHOST:
            return "warm"
        return self._tier(entry, self._clock())

    def _tier(self, entry: Any, now: float) -> Tier:
        return self._tiers.of(entry.uses, now - entry.used, entry.life.tier)

    def __len__(self) -> int:
        return len(self._entries) - self._ghosts

    def resident_keys(self) -> list[str]:
        """Return the keys of the residents; O(entries)."""
        return [key for key, entry in list(self._entries.items()) if entry.expires != GHOST]

    @property
    def weight(self) -> int:
        """What the residents weigh together."""
        return self._weight

    # --- Storing ---

    def put(self, key: str, stored: Stored, origin: InsertOrigin = "miss") -> None:
        """Store a value, and evict until everything fits.

        A value that is heavier than the capacity, or has expired already, is refused; what it
        should have replaced is dropped all the same.

        Raises:
            PluginError: The policy did not name a resident as victim; the value is not stored.
                Not raised if someone is told of failures instead.
        """
        weight = 1 if self._weigh is None else max(1, self._weigh(stored.value))
        with self._lock:
            now = self._clock()
            self._drain()
            entry: Any = self._entries.get(key)
            resident = entry is not None and entry.expires != GHOST
            if weight > self.capacity or stored.expires <= now:
                self._rejected += 1
                if resident:
                    self._leave(entry, "invalidated")
                return
            candidate = self._candidate(key, stored, weight, origin, resident=resident)
            if candidate is not None and not self._admits(candidate, now):
                self._rejected += 1
                if resident:
                    self._leave(entry, "invalidated")
                return
            new = entry is None
            tier: Tier = "warm"
            if new:
                entry = self._empty_entry(key)
            elif resident:
                self._policy.on_remove(entry, "replaced")
                self._weight -= entry.weight
                tier = self._tier(entry, now)
                if entry.uses:
                    self._warmed.pop(key, None)
                self._halve(entry)
            else:
                self._marks.returning = entry
                self._count_ghost(entry, -1)
            if not resident:
                entry.used = self._recently(now)
                if origin == "warmup":
                    self._warmed[key] = entry
            self._fill(entry, stored, tier, weight)
            self._weight += weight
            self._insertions += 1
            self._policy.on_insert(entry, now, origin)
            self._marks.returning = None
            if new:
                self._entries[key] = entry
            while self._weight > self.capacity:
                self._evict(entry, now, candidate)

    def _candidate(
        self, key: str, stored: Stored, weight: int, origin: InsertOrigin, *, resident: bool
    ) -> Candidate | None:
        """Return what the filters are asked about; None: there are none."""
        if not self._filters:
            return None
        size = self._size_of(stored.value) if self._sized and self._size_of else None
        return Candidate(key, weight, size, stored.cost, origin, resident)

    def _admits(self, candidate: Candidate, now: float) -> bool:
        return all(each.admit(candidate, now) for each in self._filters)

    def _prefers(self, candidate: Candidate | None, victim: Any, now: float) -> bool:
        return candidate is None or all(
            each.prefers(candidate, victim, now) for each in self._filters
        )

    def _fill(self, entry: Any, stored: Stored, tier: Tier, weight: int) -> None:
        """Give an entry a value.

        The value first: a look-up on another thread must never serve the old one under the new
        expiry. A new entry shows itself only when it is complete.
        """
        fresh_until = min(stored.fresh_until, stored.expires)
        infinite = fresh_until == float("inf")
        entry.value = stored.value
        entry.life = life_of(
            rounded(fresh_until - stored.created),
            0.0 if infinite else rounded(stored.expires - fresh_until),
            tier,
        )
        entry.expires = stored.expires
        if self._weigh is not None:
            entry.weight = weight
        if self._stamp is not None:
            entry.ref = self._stamp()
        if self._takes_cost:
            if stored.cost is not None:
                self._mean_cost += (stored.cost - self._mean_cost) / 64
            entry.cost = max(1e-6, self._mean_cost if stored.cost is None else stored.cost)

    def _recently(self, now: float) -> float:
        """Return an instant of the last second, which many entries share."""
        if not 0 <= now - self._tick < 1:
            self._tick = now
        return self._tick

    def _halve(self, entry: Any) -> None:
        """Forget half of an entry's hits, so that they tell of lately."""
        uses = entry.uses
        entry.uses = uses // 2
        self._hits_of_the_gone += uses - uses // 2

    def _evict(self, newcomer: Any, now: float, candidate: Candidate | None) -> None:
        """Take one victim out. It is a resident, or the loop of `put` would not end."""
        unused = self._oldest_unused(newcomer)
        if unused is not None:
            self._policy.on_remove(unused, "explicit")
            self._evictions += 1
            self._forget(unused)
            return
        victim: Any = None
        try:
            victim = self._policy.evict(now)
            known = self._entries.get(victim.key) is victim
            if not known or victim.expires == GHOST:
                raise LookupError(f"it chose {victim.key!r}, which is not resident")
        except Exception as error:
            self._forget(newcomer)  # the policy is beyond trust, but the capacity holds
            if self._guard is not None:
                self._guard.fail(error)
                return
            raise PluginError(f"{type(self._policy).__name__} cannot evict: {error}") from error
        if victim is not newcomer and not self._prefers(candidate, victim, now):
            self._put_back(victim, newcomer, now)
            return
        self._evictions += 1
        if victim.keep_ghost:
            victim.keep_ghost = False
            if self._ghost_weight + victim.weight <= self.capacity:
                self._weight -= victim.weight
                self._count_ghost(victim, 1)
                self._empty(victim)
                victim.uses = 0
                return
        self._forget(victim)

    def _put_back(self, victim: Any, newcomer: Any, now: float) -> None:
        """Refuse a newcomer after all, and let its victim stay."""
        self._policy.on_remove(newcomer, "explicit")
        self._forget(newcomer)
        self._insertions -= 1
        self._rejected += 1
        if victim.keep_ghost:
            victim.keep_ghost = False
            self._marks.returning = victim  # the policy has it among its ghosts
        self._policy.on_insert(victim, now, "restore")
        self._marks.returning = None

    def _oldest_unused(self, newcomer: Any) -> Any:
        """Return the oldest entry that was warmed and that nobody has asked for, or None."""
        while True:
            others = (entry for entry in self._warmed.values() if entry is not newcomer)
            oldest: Any = next(others, None)
            if oldest is None or not oldest.uses:
                return oldest
            del self._warmed[oldest.key]

    def drop_ghost(self, entry: Entry) -> None:
        """Forget a ghost; the policy calls it, under the lock. Again does nothing."""
        if entry.expires == GHOST and self._entries.get(entry.key) is entry:
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
            if entry is None or entry.expires == GHOST:
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
        """Drop an expired entry, unless another thread did, stored anew, or moved all meanwhile."""
        if GHOST < entry.expires <= self._clock() and self._entries.get(entry.key) is entry:
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
        self._empty(entry)

    def _empty(self, entry: Any) -> None:
        """Take the value out of an entry, then mark it as gone; see `_Entry` for the order."""
        self._hits_of_the_gone += entry.uses
        if self._warmed:
            self._warmed.pop(entry.key, None)
        entry.value = None
        entry.expires = GHOST

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Let the policy age what it learned: a roll-out or an invalidation has retired keys."""
        with self._lock:
            self._drain()
            self._policy.on_generation(namespace, old, new)
            for each in self._filters:
                each.on_generation(namespace, old, new)

    # --- Looking at it all ---

    def sweep(self) -> None:
        """Look at every entry's use: note its tier, and take out what stays here no longer.

        O(entries), without the lock but for entries whose tier has changed. `stats` calls it now
        and then; no request waits for it.
        """
        now = self._clock()
        started = time.perf_counter()
        found: Counter[str] = Counter()
        for entry in list(self._entries.values()):
            if entry.expires == GHOST:
                continue
            life = entry.life
            tier = self._tiers.of(entry.uses, now - entry.used, life.tier)
            if tier != life.tier:
                tier = self._move(entry, now)
            if tier in self._keeps:
                found[tier] += 1
        self._in_tier = found
        pause = max(_SWEEP_SECONDS, _SWEEP_SHARE * (time.perf_counter() - started))
        self._next_sweep = now + pause

    def _move(self, entry: Any, now: float) -> Tier:
        """Change an entry's tier, as its use is now; return the new one."""
        with self._lock:
            self._drain()
            tier = self._tier(entry, now)
            if entry.expires == GHOST:
                return tier
            if tier not in self._keeps:
                self._policy.on_remove(entry, "explicit")
                self._forget(entry)
                self._cooled += 1
            else:
                entry.life = life_of(entry.life.ttl, entry.life.stale, tier)
            return tier

    def stats(self) -> LevelStats:
        """Return the counts; O(entries), as each counts its own hits. Tiers: of the last sweep."""
        if self._clock() >= self._next_sweep:
            self.sweep()
        with self._lock:
            entries = list(self._entries.values())
            gone = self._hits_of_the_gone
        hits = gone + sum([entry.uses for entry in entries])
        misses = self._misses_before + self._misses()
        with self._lock:
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
                cooled=self._cooled,
                hot=self._in_tier["hot"],
                warm=self._in_tier["warm"],
                cold=self._in_tier["cold"],
            )

    def check(self) -> None:
        """Verify every invariant of the level, then of its policy; O(entries).

        Raises:
            AssertionError: One does not hold.
        """
        with self._lock:
            residents = [e for e in self._entries.values() if e.expires != GHOST]
            ghosts = [e for e in self._entries.values() if e.expires == GHOST]
            assert all(entry.key == key for key, entry in self._entries.items()), "a wrong key"
            assert all(entry.value is None for entry in ghosts), "a ghost has a value"
            assert all(entry.value is not None for entry in residents), "a value is missing"
            assert self._weight == sum(entry.weight for entry in residents), "the weight is wrong"
            assert self._weight <= self.capacity, "the entries weigh more than the capacity"
            assert self._ghosts == len(ghosts), "ghosts are miscounted"
            assert self._ghost_weight == sum(e.weight for e in ghosts), "the ghosts' weight is off"
            assert self._ghost_weight <= self.capacity, "ghosts weigh more than the capacity"
            warmed = self._warmed.items()
            assert all(self._entries.get(k) is e for k, e in warmed), "a warmed entry left"
            self._policy.check()
            for each in self._filters:
                each.check()
