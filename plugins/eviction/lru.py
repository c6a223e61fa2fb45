"""LRU."""

from __future__ import annotations

from typing import ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.linked import LINKS, LinkedList


class LRU(BaseEvictionPolicy):
    """Evicts the entry that was not used for the longest time; exact, at a lock per hit."""

    hit_mode: ClassVar[HitMode] = "call"
    entry_slots: ClassVar[tuple[str, ...]] = LINKS

    def __init__(self) -> None:
        self._used = LinkedList()  # most recently used in front

    def on_insert(self, entry: Entry, now: float, origin: InsertOrigin) -> None:
        """Link the entry as used now."""
        self._used.push(entry)

    def on_hit(self, entry: Entry, now: float) -> None:
        """Move the entry to the front."""
        self._used.move_to_front(entry)

    def evict(self, now: float) -> Entry:
        """Return the least recently used entry."""
        victim: Entry = self._used.root.prev
        self._used.unlink(victim)
        return victim

    def on_remove(self, entry: Entry, cause: RemoveCause) -> None:
        """Unlink the entry."""
        self._used.unlink(entry)

    def check(self) -> None:
        """Verify the list."""
        self._used.check()
