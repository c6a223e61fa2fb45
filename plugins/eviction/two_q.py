"""2Q."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, PolicyHost, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.queues import QUEUED, Queue


class TwoQ(BaseEvictionPolicy):
    """Holds newcomers in a FIFO; only keys that come back after it enter the LRU of the rest.

    Johnson, Shasha: 2Q: A low overhead high performance buffer management replacement algorithm,
    VLDB 1994, the full version. Deviations: L1 inserts before it evicts, so the newcomer is
    neither counted nor chosen while others are resident, which changes no victim; hits arrive in
    batches, of which threads may lose some; an overwritten entry goes to the front of the queue
    that it was in.

    Args:
        a_in: Share of the capacity for newcomers (the paper's Kin).
        a_out: Weight of the keys remembered after it, as a share of the capacity (Kout).
    """

    hit_mode: ClassVar[HitMode] = "buffer"
    entry_slots: ClassVar[tuple[str, ...]] = QUEUED

    def __init__(self, *, a_in: float = 0.25, a_out: float = 0.5) -> None:
        if not 0 < a_in < 1:
            raise ValueError(f"a_in must be between 0 and 1, not {a_in}.")
        if not 0 <= a_out <= 1:
            raise ValueError(f"a_out must be from 0 to 1, not {a_out}.")
        self._in_share, self._out_share = a_in, a_out
        self._in, self._out, self._main = Queue(), Queue(), Queue()
        self._newcomer: Any = None
        self._overwritten: Queue | None = None  # the queue that the entry of this moment was in

    def attach(self, host: PolicyHost) -> None:
        """Remember the host, and divide its capacity."""
        super().attach(host)
        self._in_limit = int(host.capacity * self._in_share)
        self._out_limit = int(host.capacity * self._out_share)

    def on_insert(self, entry: Any, now: float, origin: InsertOrigin) -> None:
        """Link the entry in the FIFO; one that comes back in the LRU."""
        self._newcomer = entry
        queue, self._overwritten = self._overwritten, None
        if queue is None:
            queue = self._in
            if entry.was_ghost:
                self._out.unlink(entry)
                queue = self._main
        queue.push(entry)

    def on_hits(self, entries: Iterable[Entry], now: float) -> None:
        """Move entries of the LRU to its front; a hit in the FIFO says nothing yet."""
        main = self._main
        for entry in entries:
            if entry.queue is main:  # type: ignore[attr-defined]  # a slot declared above
                main.move_to_front(entry)

    def evict(self, now: float) -> Entry:
        """Return the oldest of the FIFO while that is over its share, else of the LRU."""
        newcomer = self._newcomer
        arrived, others = self._in.weight, len(self._main)
        if newcomer is not None:
            if newcomer.queue is self._in:
                arrived -= newcomer.weight
            else:
                others -= 1
        queue = self._in if arrived and (arrived > self._in_limit or not others) else self._main
        if not queue:
            queue = self._in  # the newcomer is alone
        victim: Any = queue.root.prev
        if victim is newcomer:
            if len(queue) > 1:  # hits moved all others of the LRU in front of it
                victim = victim.prev
            else:
                self._newcomer = None
        queue.unlink(victim)
        if queue is self._in:
            self._out.remember(victim, self.host, self._out_limit)
        evicted: Entry = victim
        return evicted

    def on_remove(self, entry: Any, cause: RemoveCause) -> None:
        """Unlink the entry; remember the queue of one that is overwritten."""
        queue = entry.queue
        queue.unlink(entry)
        if cause == "replaced":
            self._overwritten = queue
        elif entry is self._newcomer:
            self._newcomer = None

    def check(self) -> None:
        """Verify the queues, and that the ghosts keep to their share."""
        self._in.check()
        self._main.check()
        self._out.check(ghosts=True)
        assert self._out.weight <= self._out_limit, "there are too many ghosts"
        assert self._newcomer is None or self._newcomer.queue in (self._in, self._main), (
            "the newcomer left"
        )
        assert self._overwritten is None, "an overwritten entry did not come back"
