"""SIEVE."""

from __future__ import annotations

from typing import Any, ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.linked import LINKS, LinkedList


class SIEVE(BaseEvictionPolicy):
    """Evicts entries that were not used since a hand last passed them; hits are one flag.

    Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU, NSDI 2024, algorithm 1.
    Deviations, none of which changes a victim: L1 inserts before it evicts, so the hand passes
    over the newcomer in front; and a scan ends after two rounds, although other threads may set
    flags meanwhile. An overwritten entry counts as new.
    """

    hit_mode: ClassVar[HitMode] = "flag"
    entry_slots: ClassVar[tuple[str, ...]] = ("ref", *LINKS)

    def __init__(self) -> None:
        self._queue = LinkedList()  # stored last in front
        self._hand: Any = None  # the next candidate; None: begin at the back

    def on_insert(self, entry: Entry, now: float, origin: InsertOrigin) -> None:
        """Link the entry in front, unused."""
        entry.ref = 0  # type: ignore[attr-defined]  # the slot is declared above
        if origin == "restore":  # where it was: the hand had just passed it
            self._queue.insert_after(self._hand or self._queue.root, entry)
            self._hand = entry
        else:
            self._queue.push(entry)

    def evict(self, now: float) -> Entry:
        """Return the first entry from the hand towards the front that was not used."""
        root = self._queue.root
        newcomer = root.next
        if newcomer is root.prev:
            newcomer = None  # it is alone
        victim = self._hand or root.prev
        for _ in range(2 * len(self._queue)):
            if victim is newcomer or victim is root:
                victim = root.prev
            if not victim.ref:
                break
            victim.ref = 0
            victim = victim.prev
        if victim is newcomer or victim is root:
            victim = root.prev
        self._move_hand_past(victim)
        if self._hand is newcomer:
            self._hand = None  # the newcomer was not there when the hand got to the front
        self._queue.unlink(victim)
        evicted: Entry = victim
        return evicted

    def on_remove(self, entry: Entry, cause: RemoveCause) -> None:
        """Unlink the entry; a hand that points to it moves on."""
        if self._hand is entry:
            self._move_hand_past(entry)
        self._queue.unlink(entry)

    def _move_hand_past(self, entry: Any) -> None:
        self._hand = None if entry.prev is self._queue.root else entry.prev

    def check(self) -> None:
        """Verify the queue, and that the hand points into it."""
        self._queue.check()
        assert self._hand is None or any(entry is self._hand for entry in self._queue), (
            "the hand points to an entry that left"
        )
