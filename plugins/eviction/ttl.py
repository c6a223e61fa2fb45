"""TTL-first."""

from __future__ import annotations

import heapq
from typing import Any, ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy

_SLACK = 64
"""How many dead heap items are tolerated in any case, so that small caches never rebuild."""


class TTLFirst(BaseEvictionPolicy):
    """Evicts the entry that expires first; among equals the one that was stored first.

    A binary heap with lazy deletion: an entry that leaves otherwise leaves its heap item behind,
    and once more than half of the items are dead the heap is rebuilt. So every step is
    O(log n) amortised, and the heap is never longer than twice the entries (and 64). The
    newcomer itself is the victim if it expires first.
    """

    hit_mode: ClassVar[HitMode] = "none"
    entry_slots: ClassVar[tuple[str, ...]] = ("ticket",)

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Any]] = []
        self._linked = 0
        self._tickets = 0

    def on_insert(self, entry: Entry, now: float, origin: InsertOrigin) -> None:
        """Push the entry under its expiry."""
        self._tickets += 1
        ticket = -self._tickets if origin == "restore" else self._tickets  # the first of equals
        entry.ticket = ticket  # type: ignore[attr-defined]  # the slot is declared above
        self._linked += 1
        heapq.heappush(self._heap, (entry.expires, ticket, entry))

    def evict(self, now: float) -> Entry:
        """Return the entry that expires first."""
        while True:
            _, ticket, entry = heapq.heappop(self._heap)
            if entry.ticket == ticket:
                self.on_remove(entry, "explicit")
                victim: Entry = entry
                return victim

    def on_remove(self, entry: Entry, cause: RemoveCause) -> None:
        """Make the entry's heap item a dead one."""
        assert entry.ticket, "the entry left already"  # type: ignore[attr-defined]
        entry.ticket = 0  # type: ignore[attr-defined]
        self._linked -= 1
        if len(self._heap) > 2 * self._linked + _SLACK:
            self._heap = [item for item in self._heap if item[2].ticket == item[1]]
            heapq.heapify(self._heap)

    def check(self) -> None:
        """Verify the heap: its order, its live items and its bound."""
        heap = self._heap
        assert all(heap[(i - 1) // 2][:2] < heap[i][:2] for i in range(1, len(heap))), "no heap"
        live = [item for item in heap if item[2].ticket == item[1]]
        assert len(live) == self._linked, "the heap lost an entry"
        assert all(expires == entry.expires for expires, _, entry in live), "an expiry changed"
        assert len(heap) <= 2 * self._linked + _SLACK, "the heap keeps too many dead items"
