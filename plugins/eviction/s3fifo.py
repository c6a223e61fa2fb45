"""S3-FIFO."""

from __future__ import annotations

from typing import Any, ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, PolicyHost, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.queues import QUEUED, Queue


class S3FIFO(BaseEvictionPolicy):
    """Keeps one-hit wonders in a small queue, out of the main one; hits are a small count.

    Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023,
    algorithm 1, with libCacheSim's reading of what it leaves open (a ghost queue of 0.9 of the
    capacity; the main queue evicts while it is over its share; until the first eviction, what
    the small queue has no room for goes to the main one). Deviations: L1 inserts before
    it evicts, so the newcomer is neither counted nor chosen while others are resident, which
    changes no victim; a scan is bounded, although other threads may count hits meanwhile; an
    entry heavier than the small queue is admitted all the same; an overwritten entry goes to the
    front of the queue that it was in, and keeps its count; and a model roll-out halves the
    counts, so that the keys it retires make room sooner.

    Args:
        small: Share of the capacity that the small queue should take.
        ghost: Weight of the keys remembered after the small queue, as a share of the capacity.
        threshold: How many hits (1 to 3) move an entry from the small queue to the main one.
    """

    hit_mode: ClassVar[HitMode] = "count"
    entry_slots: ClassVar[tuple[str, ...]] = ("ref", *QUEUED)
    count_cap: ClassVar[int] = 3

    def __init__(self, *, small: float = 0.1, ghost: float = 0.9, threshold: int = 2) -> None:
        if not 0 < small < 1:
            raise ValueError(f"small must be between 0 and 1, not {small}.")
        if not 0 <= ghost <= 1:
            raise ValueError(f"ghost must be from 0 to 1, not {ghost}.")
        if not 1 <= threshold <= self.count_cap:
            raise ValueError(f"threshold must be from 1 to {self.count_cap}, not {threshold}.")
        self._small_share, self._ghost_share, self._threshold = small, ghost, threshold
        self._small, self._main, self._ghosts = Queue(), Queue(), Queue()
        self._filling = True  # nothing was evicted yet
        self._newcomer: Any = None
        self._overwritten: Queue | None = None  # the queue that the entry of this moment was in

    def attach(self, host: PolicyHost) -> None:
        """Remember the host, and divide its capacity."""
        super().attach(host)
        self._small_limit = int(host.capacity * self._small_share)
        self._main_limit = host.capacity - self._small_limit
        self._ghost_limit = int(host.capacity * self._ghost_share)

    def on_insert(self, entry: Any, now: float, origin: InsertOrigin) -> None:
        """Link the entry in the small queue; one that comes back in the main one."""
        self._newcomer = entry
        queue, self._overwritten = self._overwritten, None
        if queue is None:
            entry.ref = 0
            queue = self._small
            if entry.was_ghost:
                self._ghosts.unlink(entry)
                queue = self._main
            elif self._filling:
                fits = queue.weight < self._small_limit
                room = queue.weight + self._main.weight + entry.weight <= self.host.capacity
                queue = queue if fits or not room else self._main
        queue.push(entry)

    def evict(self, now: float) -> Entry:
        """Return the oldest entry of the small queue that was hardly used, or one of the main."""
        self._filling = False
        newcomer = self._newcomer
        main, small = self._main.weight, len(self._small)
        if newcomer is not None:
            if newcomer.queue is self._main:
                main -= newcomer.weight
            else:
                small -= 1
        victim: Any = None
        if small and main <= self._main_limit:
            victim = self._evict_small(small)
        if victim is None:
            victim = self._evict_main()
        if victim is newcomer:
            self._newcomer = None
        evicted: Entry = victim
        return evicted

    def _evict_small(self, candidates: int) -> Any:
        """Take a victim from the small queue, or None if all went to the main one."""
        small, main = self._small, self._main
        place = self._behind_newcomer(main)
        for _ in range(candidates):
            entry = small.root.prev
            small.unlink(entry)
            if entry.ref < self._threshold:
                self._ghosts.remember(entry, self.host, self._ghost_limit)
                return entry
            entry.ref = 0
            main.insert_after(place, entry)
        return None

    def _evict_main(self) -> Any:
        """Take the first entry from the back of the main queue without hits left."""
        main = self._main
        newcomer = self._newcomer
        if not main or (len(main) == 1 and main.root.prev is newcomer):
            main = self._small or main  # the newcomer is alone in one of them
        place = self._behind_newcomer(main)
        victim = main.root.prev
        for _ in range((self.count_cap + 1) * len(main)):
            if not victim.ref or victim is newcomer:
                break
            victim.ref -= 1
            main.unlink(victim)
            main.insert_after(place, victim)
            victim = main.root.prev
        main.unlink(victim)
        return victim

    def _behind_newcomer(self, queue: Queue) -> Any:
        """Return where an entry has to go to be in front of all but the newcomer."""
        front = queue.root.next
        return front if front is self._newcomer else queue.root

    def on_remove(self, entry: Any, cause: RemoveCause) -> None:
        """Unlink the entry; remember the queue of one that is overwritten."""
        queue = entry.queue
        queue.unlink(entry)
        if cause == "replaced":
            self._overwritten = queue
        elif entry is self._newcomer:
            self._newcomer = None

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Halve every count, in O(entries)."""
        for queue in (self._small, self._main):
            for entry in queue:
                entry.ref //= 2

    def check(self) -> None:
        """Verify the queues, and that the ghosts keep to their share."""
        self._small.check()
        self._main.check()
        self._ghosts.check(ghosts=True)
        assert self._ghosts.weight <= self._ghost_limit, "there are too many ghosts"
        assert self._newcomer is None or self._newcomer.queue in (self._small, self._main), (
            "the newcomer left"
        )
        assert self._overwritten is None, "an overwritten entry did not come back"
