"""CLOCK."""

from __future__ import annotations

from typing import Any, ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.linked import LINKS, LinkedList


class CLOCK(BaseEvictionPolicy):
    """Evicts in the order of storing, but gives each entry used since a second chance.

    Corbató: A paging experiment with the Multics system, 1968. Deviations, none of which changes
    a victim: the ring is a queue, whose back is where the hand points, and a second chance is a
    move to the front; L1 inserts before it evicts, so that move ends behind the newcomer; and a
    scan ends after two rounds, although other threads may set flags meanwhile. An overwritten
    entry counts as new.
    """

    hit_mode: ClassVar[HitMode] = "flag"
    entry_slots: ClassVar[tuple[str, ...]] = ("ref", *LINKS)

    def __init__(self) -> None:
        self._queue = LinkedList()  # the hand points to the back

    def on_insert(self, entry: Entry, now: float, origin: InsertOrigin) -> None:
        """Link the entry in front, unused."""
        entry.ref = 0  # type: ignore[attr-defined]  # the slot is declared above
        if origin == "restore":
            self._queue.insert_after(self._queue.root.prev, entry)
        else:
            self._queue.push(entry)

    def evict(self, now: float) -> Entry:
        """Return the first entry from the back that was not used since it was last passed."""
        queue = self._queue
        newcomer = queue.root.next
        victim: Any = queue.root.prev
        for _ in range(2 * len(queue)):
            if not victim.ref or victim is newcomer:
                break
            victim.ref = 0
            queue.unlink(victim)
            queue.insert_after(newcomer, victim)
            victim = queue.root.prev
        queue.unlink(victim)
        evicted: Entry = victim
        return evicted

    def on_remove(self, entry: Entry, cause: RemoveCause) -> None:
        """Unlink the entry."""
        self._queue.unlink(entry)

    def check(self) -> None:
        """Verify the queue."""
        self._queue.check()
