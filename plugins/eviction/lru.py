"""LRU."""

from __future__ import annotations

from typing import ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.stamps import StampQueue


class LRU(BaseEvictionPolicy):
    """Evicts the entry that was not used for the longest time; exact, and a hit is one stamp."""

    hit_mode: ClassVar[HitMode] = "stamp"
    entry_slots: ClassVar[tuple[str, ...]] = ("ref",)

    def __init__(self) -> None:
        self._used = StampQueue()
        self._overwritten: Entry | None = None

    def on_insert(self, entry: Entry, now: float, origin: InsertOrigin) -> None:
        """Link the entry; one that is overwritten has its place, and a new stamp."""
        if entry is self._overwritten:
            self._overwritten = None
        elif origin == "restore":
            self._used.put_back(entry)
        else:
            self._used.push(entry)

    def evict(self, now: float) -> Entry:
        """Return the least recently used entry."""
        victim: Entry = self._used.pop()
        return victim

    def on_remove(self, entry: Entry, cause: RemoveCause) -> None:
        """Forget the entry, unless it comes back at once with a new value."""
        if cause == "replaced":
            self._overwritten = entry
        else:
            self._used.forget()

    def check(self) -> None:
        """Verify the queue."""
        self._used.check()
        assert self._overwritten is None, "an overwritten entry did not come back"
