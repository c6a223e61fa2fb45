"""LFU."""

from __future__ import annotations

from typing import Any, ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.stamps import StampQueue


def _count(entry: Any) -> int:
    """Return how often an entry was used, its insertion included."""
    count: int = entry.base + entry.uses
    return count


class LFU(BaseEvictionPolicy):
    """Evicts the entry that was used least often; among equals the one unused for longest.

    Exact, and O(1) amortised, as in Shah, Mitra, Matani: An O(1) algorithm for implementing the
    LFU cache eviction scheme, 2010. Deviations: an entry goes to the bucket of its count when it
    surfaces there, not at each hit, so that a hit is a stamp and a count that L1 makes without a
    lock; ties, which the paper leaves open, are broken by recency. L1 inserts before it evicts,
    so a newcomer is passed over while another entry is resident; else no new entry could stay
    once all others were used twice. An overwritten entry keeps its count, and a model roll-out
    halves all counts, so that the keys it retires do not lock out the new ones.
    """

    hit_mode: ClassVar[HitMode] = "stamp"
    # The count is base + uses, as L1 halves uses when a value is renewed.
    entry_slots: ClassVar[tuple[str, ...]] = ("ref", "base")

    def __init__(self) -> None:
        self._queue = StampQueue(_count)
        self._newcomer: Entry | None = None
        self._overwritten: int | None = None  # the count of the entry of this moment

    def on_insert(self, entry: Any, now: float, origin: InsertOrigin) -> None:
        """Link the entry as used once; an overwritten one as often as before."""
        if origin == "restore":
            self._queue.put_back(entry)
            return
        self._newcomer = entry
        count, self._overwritten = self._overwritten, None
        entry.base = (1 if count is None else count) - entry.uses
        if count is None:
            self._queue.push(entry)

    def evict(self, now: float) -> Entry:
        """Return the least recently used entry of the lowest count."""
        queue = self._queue
        victim: Entry = queue.pop()
        if victim is self._newcomer:
            if queue:
                newcomer, victim = victim, queue.pop()
                queue.push(newcomer)
            else:
                self._newcomer = None
        return victim

    def on_remove(self, entry: Entry, cause: RemoveCause) -> None:
        """Forget the entry, unless it comes back at once with a new value."""
        if cause == "replaced":
            self._overwritten = _count(entry)
            return
        if entry is self._newcomer:
            self._newcomer = None
        self._queue.forget()

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Halve every count, in O(entries)."""

        def halve(entry: Any) -> None:
            entry.base = max(1, _count(entry) // 2) - entry.uses

        self._queue.rerank(halve)

    def check(self) -> None:
        """Verify the queue."""
        self._queue.check()
        assert all(_count(entry) >= 1 for entry in self._queue), "a count is too low"
        assert self._overwritten is None, "an overwritten entry did not come back"
