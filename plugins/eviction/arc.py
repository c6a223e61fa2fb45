"""ARC."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.queues import QUEUED, Queue


class ARC(BaseEvictionPolicy):
    """Divides the capacity between keys used once and keys used often, and learns the division.

    Megiddo, Modha: ARC: A self-tuning, low overhead replacement cache, FAST 2003, figure 4.
    Deviations: L1 inserts before it evicts, so the newcomer is neither counted nor chosen while
    others are resident, which changes no victim; a step of the target counts by the weight of
    the key that came back; both ghost lists together weigh at most the capacity also while fewer
    entries than that are resident; hits arrive in batches, of which threads may lose some; an
    overwritten entry goes to the front of the list that it was in.
    """

    hit_mode: ClassVar[HitMode] = "buffer"
    entry_slots: ClassVar[tuple[str, ...]] = QUEUED

    def __init__(self) -> None:
        self._once, self._often = Queue(), Queue()  # T1 and T2
        self._once_ghosts, self._often_ghosts = Queue(), Queue()  # B1 and B2
        self._target = 0.0  # p: what T1 should weigh
        self._newcomer: Any = None
        self._returned_to_often = False  # whether the newcomer was in B2
        self._overwritten: Queue | None = None  # the list that the entry of this moment was in

    def on_insert(self, entry: Any, now: float, origin: InsertOrigin) -> None:
        """Link the entry as used once, or often if it comes back; then bound the ghosts."""
        self._newcomer = entry
        self._returned_to_often = False
        queue, self._overwritten = self._overwritten, None
        if queue is None:
            queue = self._once
            if entry.was_ghost:
                self._adapt(entry)
                entry.queue.unlink(entry)
                queue = self._often
        queue.push(entry)
        # Case IV of the paper: it drops these ghosts before it replaces.
        capacity = self.host.capacity
        while self._once_ghosts and self._once.weight + self._once_ghosts.weight > capacity:
            self._once_ghosts.forget_oldest(self.host)
        # What T1 alone has too much leaves without a trace (case IV A), at the cost of no ghost.
        traceless = max(0, self._once.weight - capacity)
        while self._often_ghosts and self._total() - traceless > 2 * capacity:
            self._often_ghosts.forget_oldest(self.host)

    def _adapt(self, ghost: Any) -> None:
        """Give the list that would have kept this key a larger share."""
        once, often = self._once_ghosts, self._often_ghosts
        if ghost.queue is once:
            step = max(1.0, often.weight / once.weight) * ghost.charged
            self._target = min(self._target + step, float(self.host.capacity))
        else:
            self._returned_to_often = True
            step = max(1.0, once.weight / often.weight) * ghost.charged
            self._target = max(self._target - step, 0.0)

    def _total(self) -> int:
        return (
            self._once.weight
            + self._often.weight
            + self._once_ghosts.weight
            + self._often_ghosts.weight
        )

    def on_hits(self, entries: Iterable[Entry], now: float) -> None:
        """Move entries to the front of those used often."""
        once, often = self._once, self._often
        entry: Any
        for entry in entries:
            if entry.queue is often:
                often.move_to_front(entry)
            elif entry.queue is once:
                once.unlink(entry)
                often.push(entry)

    def evict(self, now: float) -> Entry:
        """Return the least recently used entry of the list that is over its share."""
        newcomer, capacity = self._newcomer, self.host.capacity
        once, often = self._once.weight, len(self._often)
        if newcomer is not None:
            if newcomer.queue is self._once:
                once -= newcomer.weight
            else:
                often -= 1
        from_once = once and (
            once > self._target or (once == self._target and self._returned_to_often) or not often
        )
        queue = self._once if from_once else self._often
        if not queue:
            queue = self._once  # the newcomer is alone
        # Case IV A: T1 alone fills the cache, and its oldest entry leaves without a trace.
        alone = self._once.weight > capacity
        if alone:
            queue = self._once
        victim: Any = queue.root.prev
        if victim is newcomer:
            if len(queue) > 1:  # hits moved all others in front of it
                victim = victim.prev
            else:
                self._newcomer = None
        queue.unlink(victim)
        if not alone:
            self._remember(victim, self._once_ghosts if from_once else self._often_ghosts)
        evicted: Entry = victim
        return evicted

    def _remember(self, victim: Any, ghosts: Queue) -> None:
        once, often = self._once_ghosts, self._often_ghosts
        while once.weight + often.weight + victim.weight > self.host.capacity:
            longer = often if often.weight >= once.weight else once
            longer.forget_oldest(self.host)
        ghosts.push(victim)
        victim.keep_ghost = True

    def on_remove(self, entry: Any, cause: RemoveCause) -> None:
        """Unlink the entry; remember the list of one that is overwritten."""
        queue = entry.queue
        queue.unlink(entry)
        if cause == "replaced":
            self._overwritten = queue
        elif entry is self._newcomer:
            self._newcomer = None

    def check(self) -> None:
        """Verify the four lists, and the bounds of the paper."""
        self._once.check()
        self._often.check()
        self._once_ghosts.check(ghosts=True)
        self._often_ghosts.check(ghosts=True)
        capacity = self.host.capacity
        assert 0 <= self._target <= capacity, "the target is out of range"
        assert self._once.weight + self._once_ghosts.weight <= capacity, "L1 is too long"
        assert self._total() <= 2 * capacity, "all lists together are too long"
        assert self._newcomer is None or self._newcomer.queue in (self._once, self._often), (
            "the newcomer left"
        )
        assert self._overwritten is None, "an overwritten entry did not come back"
