"""W-TinyLFU."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, PolicyHost, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.climber import HillClimber
from plugins.eviction.queues import QUEUED, Queue
from plugins.eviction.sketch import FrequencySketch

_WARM = 5
"""How often a candidate must have been used lately to be let in by chance, as in Caffeine."""


class WTinyLFU(BaseEvictionPolicy):
    """Lets newcomers past an LRU window only if they were used more often than their victim.

    Einziger, Friedman, Manes: TinyLFU: A highly efficient cache admission policy, ACM TOS 2017;
    the window adapts as in Einziger, Eytan, Friedman, Manes: Adaptive software cache management,
    Middleware 2018, with Caffeine's hill climber. Behind the window is a segmented LRU, of which
    0.8 is protected. Against flooding, a candidate that lost but is in use is let in once in 128
    times, as in Caffeine.

    Deviations: the sketch grows with the number of entries (a capacity may be in bytes), and has
    no doorkeeper; keys are placed in it by BLAKE2 under a key of the host's randomness, once per
    insertion, as ``hash`` differs from process to process; hits arrive in batches, of which
    threads may lose some; an overwritten entry goes to the front of the queue that it was in.
    Entries of origin ``warmup`` are never refused by frequency, as nobody has asked for them yet:
    until their first hit they wait apart, and of all entries the oldest of them leaves first. A
    model roll-out halves the sketch.

    Args:
        window: Share of the capacity of the window at first.
        adaptive: Whether the window adapts to the hit ratio.
    """

    hit_mode: ClassVar[HitMode] = "buffer"
    entry_slots: ClassVar[tuple[str, ...]] = ("spots", *QUEUED)

    def __init__(self, *, window: float = 0.01, adaptive: bool = True) -> None:
        if not 0 < window < 1:
            raise ValueError(f"window must be between 0 and 1, not {window}.")
        self._window_share, self._adaptive = window, adaptive
        self._sketch = FrequencySketch()
        self._warmed, self._window = Queue(), Queue()
        self._probation, self._protected = Queue(), Queue()
        self._newcomer: Any = None
        self._candidate: Any = None  # came out of the window for the newcomer of this moment
        self._overwritten: Queue | None = None  # the queue that the entry of this moment was in

    def attach(self, host: PolicyHost) -> None:
        """Remember the host, and divide its capacity."""
        super().attach(host)
        self._climber = HillClimber(host.capacity, self._window_share)
        self._salt = host.rng.randbytes(16)

    def on_insert(self, entry: Any, now: float, origin: InsertOrigin) -> None:
        """Link the entry in the window, or apart if nobody has asked for it yet."""
        self._newcomer = entry
        self._candidate = None
        queue, self._overwritten = self._overwritten, None
        if queue is None:
            digest = blake2b(entry.key.encode(), digest_size=8, key=self._salt).digest()
            entry.spots = int.from_bytes(digest, "little")
            if origin == "warmup":
                queue = self._warmed
            else:
                queue = self._window
                self._sketch.add(entry.spots)
            if origin == "miss":
                self._asked(hit=False)
        queue.push(entry)
        entries = len(self._window) + len(self._probation) + len(self._protected)
        self._sketch.grow(entries + len(self._warmed))
        self._shrink_window()

    def _shrink_window(self) -> None:
        """Let entries out of the window unasked: while there is room, or after it got smaller."""
        window = self._window
        total = window.weight + self._warmed.weight
        total += self._probation.weight + self._protected.weight
        contested = self._newcomer.weight if total > self.host.capacity else 0
        for _ in range(2):  # two out for one in: it shrinks, and no step is long
            oldest = window.root.prev
            if window.weight - self._climber.window <= contested or oldest is self._newcomer:
                break
            window.unlink(oldest)
            self._probation.push(oldest)

    def on_hits(self, entries: Iterable[Entry], now: float) -> None:
        """Count hits, and move entries to the front, or from probation to protection."""
        entry: Any
        for entry in entries:
            queue = entry.queue
            if queue is None:
                continue  # it has left
            self._sketch.add(entry.spots)
            self._asked(hit=True)
            if queue is self._warmed:
                queue.unlink(entry)
                self._window.push(entry)
            elif queue is self._probation:
                queue.unlink(entry)
                self._protected.push(entry)
                self._demote()
            else:
                queue.move_to_front(entry)

    def _demote(self) -> None:
        """Take protection from the least recently used while too much is protected."""
        protected = self._protected
        limit = int(0.8 * (self.host.capacity - self._climber.window))
        for _ in range(4):  # so that it catches up after a change, and no step is long
            if protected.weight <= limit:
                break
            oldest = protected.root.prev
            protected.unlink(oldest)
            self._probation.push(oldest)

    def _asked(self, *, hit: bool) -> None:
        if self._adaptive:
            entries = len(self._window) + len(self._probation) + len(self._protected)
            self._climber.count(hit=hit, entries=entries)

    def evict(self, now: float) -> Entry:
        """Return the oldest that nobody asked for, or who loses between newcomer and victim."""
        victim = self._choose()
        if victim is self._newcomer:
            self._newcomer = None
        if victim is self._candidate:
            self._candidate = None
        victim.queue.unlink(victim)
        evicted: Entry = victim
        return evicted

    def _choose(self) -> Any:
        unused = self._oldest(self._warmed)
        if unused is not None:
            return unused
        victim = self._oldest(self._probation)
        if self._candidate is None and self._window.weight > self._climber.window:
            candidate = self._oldest(self._window)
            if candidate is not None:
                self._window.unlink(candidate)
                self._probation.push(candidate)
                self._candidate = candidate
                if victim is None:
                    victim = self._oldest(self._protected)
                if victim is None or not self._admits(candidate, victim):
                    return candidate
        if victim is None:
            victim = self._oldest(self._protected) or self._oldest(self._window)
        return self._newcomer if victim is None else victim

    def _oldest(self, queue: Queue) -> Any:
        """Return the entry at the back that is not the newcomer, or None."""
        last = queue.root.prev
        if last is self._newcomer:
            last = last.prev
        return None if last is queue.root else last

    def _admits(self, candidate: Any, victim: Any) -> bool:
        """Return whether the candidate may take the victim's place."""
        asked = self._sketch.frequency(candidate.spots)
        if asked > self._sketch.frequency(victim.spots):
            return True
        return asked > _WARM and self.host.rng.getrandbits(7) == 0

    def on_remove(self, entry: Any, cause: RemoveCause) -> None:
        """Unlink the entry; remember the queue of one that is overwritten."""
        queue = entry.queue
        queue.unlink(entry)
        if cause == "replaced":
            self._overwritten = queue
        elif entry is self._newcomer:
            self._newcomer = None
        if entry is self._candidate:
            self._candidate = None

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Halve the sketch."""
        self._sketch.halve()

    def check(self) -> None:
        """Verify the queues, the sketch and the window's size."""
        queues = (self._warmed, self._window, self._probation, self._protected)
        for queue in queues:
            queue.check()
        self._sketch.check()
        self._climber.check()
        entries = sum(len(queue) for queue in queues)
        assert self._sketch.keys >= entries, "the sketch is too small"
        for entry in (self._newcomer, self._candidate):
            assert entry is None or entry.queue in queues, "the newcomer or the candidate left"
        assert self._overwritten is None, "an overwritten entry did not come back"
