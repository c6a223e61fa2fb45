"""FIFO."""

from __future__ import annotations

from typing import ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.linked import LINKS, LinkedList


class FIFO(BaseEvictionPolicy):
    """Evicts the entry that was stored first; hits count for nothing and cost nothing."""

    hit_mode: ClassVar[HitMode] = "none"
    entry_slots: ClassVar[tuple[str, ...]] = LINKS

    def __init__(self) -> None:
        self._stored = LinkedList()  # stored last in front

    def on_insert(self, entry: Entry, now: float, origin: InsertOrigin) -> None:
        """Link the entry as the last; an overwritten one too, as its value is new."""
        if origin == "restore":
            self._stored.insert_after(self._stored.root.prev, entry)
        else:
            self._stored.push(entry)

    def evict(self, now: float) -> Entry:
        """Return the entry that was stored first."""
        victim: Entry = self._stored.root.prev
        self._stored.unlink(victim)
        return victim

    def on_remove(self, entry: Entry, cause: RemoveCause) -> None:
        """Unlink the entry."""
        self._stored.unlink(entry)

    def check(self) -> None:
        """Verify the list."""
        self._stored.check()
