"""GDSF."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any, ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy

_SLACK = 64
"""How many dead heap items are tolerated in any case, so that small caches never rebuild."""


class GDSF(BaseEvictionPolicy):
    """Evicts what is worth least: hits times the cost to recompute, by size, plus an age.

    Cherkasova: Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy,
    HP Labs 1998: the priority is ``L + frequency * cost / size``, L being the last victim's. The
    size is ``entry.weight``, the cost ``entry.cost``: seconds. A binary
    heap with lazy deletion: a hit only notes the new priority, which is never lower, and the
    entry sinks when it surfaces; so a hit is O(1), and a victim O(log n) amortised.

    Deviations: L1 inserts before it evicts, so the newcomer gets its priority after the victims
    have raised L, and is chosen only if it is alone; equals leave in the order of their last
    use; hits arrive in batches, of which threads may lose some; an overwritten entry keeps its
    frequency; and a model roll-out halves all frequencies.
    """

    hit_mode: ClassVar[HitMode] = "buffer"
    entry_slots: ClassVar[tuple[str, ...]] = ("frequency", "rank", "ticket", "cost")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, Any]] = []  # priority, use, ticket, entry
        self._linked = 0
        self._tickets = self._uses = 0
        self._age = 0.0
        self._newcomer: Any = None  # not in the heap yet
        self._overwritten: int | None = None  # the frequency of the entry of this moment

    def on_insert(self, entry: Any, now: float, origin: InsertOrigin) -> None:
        """Link the entry as used once; an overwritten one as often as before."""
        self._settle()
        self._tickets += 1
        entry.ticket = self._tickets
        self._linked += 1
        if origin == "restore":
            heapq.heappush(self._heap, (*entry.rank, entry.ticket, entry))
            return
        frequency, self._overwritten = self._overwritten, None
        entry.frequency = 1 if frequency is None else frequency
        self._newcomer = entry

    def _settle(self) -> None:
        """Push the last newcomer, now that its victims have left."""
        entry, self._newcomer = self._newcomer, None
        if entry is not None:
            self._rank(entry)
            heapq.heappush(self._heap, (*entry.rank, entry.ticket, entry))

    def _rank(self, entry: Any) -> None:
        self._uses += 1
        value = entry.frequency * getattr(entry, "cost", 1.0) / entry.weight
        entry.rank = (self._age + value, self._uses)

    def on_hits(self, entries: Iterable[Entry], now: float) -> None:
        """Count hits, and raise the priorities."""
        self._settle()
        entry: Any
        for entry in entries:
            if entry.ticket:  # else it has left
                entry.frequency += 1
                self._rank(entry)

    def evict(self, now: float) -> Entry:
        """Return the entry of the lowest priority."""
        if self._linked == 1:
            self._settle()  # the newcomer is alone
        heap = self._heap
        while True:
            priority, use, ticket, entry = heap[0]
            if entry.ticket != ticket:
                heapq.heappop(heap)
            elif entry.rank != (priority, use):
                heapq.heapreplace(heap, (*entry.rank, ticket, entry))
            else:
                heapq.heappop(heap)
                self._age = max(self._age, priority)
                self._leave(entry)
                victim: Entry = entry
                return victim

    def on_remove(self, entry: Any, cause: RemoveCause) -> None:
        """Make the entry's heap item a dead one."""
        if cause == "replaced":
            self._overwritten = entry.frequency
        if entry is self._newcomer:
            self._newcomer = None
        self._leave(entry)

    def _leave(self, entry: Any) -> None:
        assert entry.ticket, "the entry left already"
        entry.ticket = 0
        self._linked -= 1
        if len(self._heap) > 2 * self._linked + _SLACK:
            self._rebuild()

    def _rebuild(self) -> None:
        self._heap = [
            (*entry.rank, ticket, entry)
            for _, _, ticket, entry in self._heap
            if entry.ticket == ticket
        ]
        heapq.heapify(self._heap)

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Halve every frequency, in O(n log n)."""
        self._settle()
        live = [item[3] for item in self._heap if item[3].ticket == item[2]]
        for entry in sorted(live, key=lambda entry: entry.rank[1]):
            entry.frequency = max(1, entry.frequency // 2)
            self._rank(entry)
        self._rebuild()

    def check(self) -> None:
        """Verify the heap: its order, its live items and its bound."""
        heap = self._heap
        assert all(heap[(i - 1) // 2][:3] < heap[i][:3] for i in range(1, len(heap))), "no heap"
        live = [item for item in heap if item[3].ticket == item[2]]
        waiting = self._newcomer is not None
        assert len(live) + waiting == self._linked, "the heap lost an entry"
        assert all(item[:2] <= item[3].rank for item in live), "a priority fell"
        assert len(heap) <= 2 * self._linked + _SLACK, "the heap keeps too many dead items"
        assert not waiting or self._newcomer.ticket, "the newcomer left"
        assert self._overwritten is None, "an overwritten entry did not come back"
