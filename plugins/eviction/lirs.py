"""LIRS."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, final

from plugins.contracts import Entry, HitMode, InsertOrigin, PolicyHost, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.linked import LINKS, LinkedList

_GHOST = float("-inf")


@final
class _Place:
    """A cold entry's place in the queue of the residents, or of the ghosts."""

    __slots__ = (*LINKS, "entry", "weight")

    def __init__(self, entry: Any) -> None:
        self.entry = entry
        self.weight = entry.weight  # of the ghost, which L1 changes before it comes back


class LIRS(BaseEvictionPolicy):
    """Evicts by the distance between the last two uses, and so withstands loops and scans.

    Jiang, Zhang: LIRS: An efficient low inter-reference recency set replacement policy,
    SIGMETRICS 2002. The stack S holds hot entries (LIR), and what was used since the least
    recent of them; the queue Q holds the residents that are cold (HIR). Deviations: L1 inserts
    before it evicts, so the newcomer is passed over while another entry is resident; the paper
    leaves S unbounded, here ghosts weigh at most the capacity, and the one evicted first is
    forgotten first; hits arrive in batches, of which threads may lose some; an overwritten entry
    stays hot or cold and counts as used.

    Args:
        cold: Share of the capacity for cold entries (the paper's Lhirs).
    """

    hit_mode: ClassVar[HitMode] = "buffer"
    # prev and next are links in S. An entry that is neither hot nor has a place has left.
    entry_slots: ClassVar[tuple[str, ...]] = ("hot", "place", *LINKS)

    def __init__(self, *, cold: float = 0.01) -> None:
        if not 0 < cold < 1:
            raise ValueError(f"cold must be between 0 and 1, not {cold}.")
        self._cold_share = cold
        self._stack = LinkedList()  # used last in front
        self._cold, self._ghosts = LinkedList(), LinkedList()  # of places, the last in front
        self._hot_weight = self._ghost_weight = 0
        self._newcomer: Any = None
        self._overwritten: bool | None = None  # whether the entry of this moment was hot

    def attach(self, host: PolicyHost) -> None:
        """Remember the host, and divide its capacity."""
        super().attach(host)
        self._hot_limit = host.capacity - max(1, int(host.capacity * self._cold_share))

    def on_insert(self, entry: Any, now: float, origin: InsertOrigin) -> None:
        """Link the entry: hot if it comes back soon enough or there is room, else cold."""
        self._newcomer = entry
        hot, self._overwritten = self._overwritten, None
        if entry.was_ghost:
            self._stack.unlink(entry)
            self._unlink_ghost(entry)
            hot = True
        elif hot is None:
            hot = self._hot_weight + entry.weight <= self._hot_limit
        entry.hot, entry.place = False, None
        self._stack.push(entry)
        if hot:
            self._heat(entry)
        else:
            self._cool(entry)
            self._prune()

    def on_hits(self, entries: Iterable[Entry], now: float) -> None:
        """Move entries up; a cold one that is still in the stack becomes hot."""
        stack = self._stack
        entry: Any
        for entry in entries:
            if entry.hot:
                if entry is not stack.root.next:
                    at_the_bottom = entry is stack.root.prev
                    stack.move_to_front(entry)
                    if at_the_bottom:
                        self._prune()
            elif entry.place is None or entry.expires == _GHOST:
                continue  # it has left, or is a ghost
            elif entry.next is not None:
                stack.move_to_front(entry)
                self._cold.unlink(entry.place)
                entry.place = None
                self._heat(entry)
            else:
                stack.push(entry)
                self._cold.move_to_front(entry.place)
                self._prune()

    def _heat(self, entry: Any) -> None:
        """Make the entry, which is on top of the stack, hot; cool others until all fit."""
        entry.hot = True
        self._hot_weight += entry.weight
        stack = self._stack
        self._prune()
        while self._hot_weight > self._hot_limit:
            self._cool_bottom(stack.root.prev)  # hot, as the stack is pruned; at last the entry

    def _cool_bottom(self, bottom: Any) -> None:
        self._stack.unlink(bottom)
        bottom.hot = False
        self._hot_weight -= bottom.weight
        self._cool(bottom)
        self._prune()

    def _cool(self, entry: Any) -> None:
        entry.place = _Place(entry)
        self._cold.push(entry.place)

    def _prune(self) -> None:
        """Take out of the stack what is below the last hot entry; it lost its chance."""
        stack = self._stack
        while stack and not (bottom := stack.root.prev).hot:
            stack.unlink(bottom)
            if bottom.expires == _GHOST:
                self._unlink_ghost(bottom)
                self.host.drop_ghost(bottom)

    def evict(self, now: float) -> Entry:
        """Return the cold entry that was stored, cooled or used first."""
        cold = self._cold
        if len(cold) <= 1 and self._stack and (not cold or cold.root.prev.entry is self._newcomer):
            self._cool_bottom(self._stack.root.prev)  # nobody else is cold
            place = cold.root.next
        else:
            place = cold.root.prev
            if place.entry is self._newcomer and len(cold) > 1:
                place = place.prev
        victim: Any = place.entry
        self._cold.unlink(place)
        if victim is self._newcomer:
            self._newcomer = None
        if victim.next is None:
            victim.place = None
        else:
            self._remember(victim, place)
        evicted: Entry = victim
        return evicted

    def _remember(self, victim: Any, place: _Place) -> None:
        while self._ghost_weight + victim.weight > self.host.capacity:
            oldest = self._ghosts.root.prev.entry
            self._stack.unlink(oldest)
            self._unlink_ghost(oldest)
            self.host.drop_ghost(oldest)
        self._ghosts.push(place)
        self._ghost_weight += place.weight
        victim.keep_ghost = True

    def _unlink_ghost(self, ghost: Any) -> None:
        self._ghosts.unlink(ghost.place)
        self._ghost_weight -= ghost.place.weight
        ghost.place = None

    def on_remove(self, entry: Any, cause: RemoveCause) -> None:
        """Unlink the entry; remember whether one that is overwritten was hot."""
        if cause == "replaced":
            self._overwritten = entry.hot
        elif entry is self._newcomer:
            self._newcomer = None
        if entry.next is not None:
            self._stack.unlink(entry)
        if entry.hot:
            entry.hot = False
            self._hot_weight -= entry.weight
        else:
            self._cold.unlink(entry.place)
            entry.place = None
        self._prune()

    def check(self) -> None:
        """Verify the stack, the queues, and who is in which."""
        for each in (self._stack, self._cold, self._ghosts):
            each.check()
        stack = list(self._stack)
        assert not stack or stack[-1].hot, "the stack is not pruned"
        hot = [entry for entry in stack if entry.hot]
        assert all(entry.place is None for entry in hot), "a hot entry is in a queue"
        assert self._hot_weight == sum(e.weight for e in hot), "the hot weight is wrong"
        assert self._hot_weight <= self._hot_limit, "too much is hot"
        for queue, ghosts in ((self._cold, False), (self._ghosts, True)):
            for place in queue:
                entry = place.entry
                assert entry.place is place, "an entry has two places"
                assert not entry.hot, "a hot entry is in a queue"
                assert (entry.expires == _GHOST) == ghosts, "a ghost is in the wrong queue"
                assert entry.next is not None or not ghosts, "a ghost left the stack"
        cold = sum(entry.place is not None for entry in stack)
        assert len(hot) + cold == len(stack), "an entry of the stack is in no queue"
        assert self._ghost_weight == sum(p.weight for p in self._ghosts), "ghosts are miscounted"
        assert self._ghost_weight <= self.host.capacity, "there are too many ghosts"
        assert self._overwritten is None, "an overwritten entry did not come back"
