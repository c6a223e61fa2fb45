"""What waits for a model, in which order it leaves, and what becomes of it: without threads.

`Batcher` drives it: each method is called under the batcher's lock, with the time given, and does
no more than change state. What got an outcome is returned, for its futures to be announced once
the lock is free. So each interleaving of events can be tried in a test, step by step.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from plugins import BatchTimes, DeadlineExceeded, Priority
from serving_app.core.work_future import WorkFuture

__all__ = ["Batch", "Work", "WorkQueue"]

_SLOTS_PER_SECOND = 64
"""How finely queued work is summed by deadline."""


class Work(WorkFuture[Any]):
    """One submitted work: its parts, when it is due, and the future of its result.

    Args:
        lock: The batcher's.
        cancel: Cancels it; the batcher's.
        parts: What is run, each part in one batch.
        sizes: What each part counts of a batch; None: 1.
        single: Whether the result is that of the one part, or the list of all parts'.
        priority: What goes first when not everything can.
        deadline: Monotonic instant after which the result is of no use.
        queued_at: Monotonic instant of its submission.
    """

    ticket = 0
    """Which of its entries in the queue counts: it may have left others behind."""
    started = 0
    """How many parts have been put into batches."""
    results: list[Any] | None = None
    """Of the parts, once one of several has one."""
    missing = 0
    """How many parts have no result, from then on."""
    batch: BatchTimes | None = None
    """Of the batch that settled it."""

    def __init__(
        self,
        lock: threading.Lock,
        cancel: Callable[[Work], bool],
        parts: Sequence[Any],
        sizes: Sequence[int] | None,
        *,
        single: bool,
        priority: Priority,
        deadline: float,
        queued_at: float,
    ) -> None:
        super().__init__(lock)
        self._cancel = cancel
        self.parts = parts
        self.sizes = sizes
        self.single = single
        self.priority = priority
        self.deadline = deadline
        self.queued_at = queued_at
        self.lone = single and sizes is None
        """Whether it is one part that counts 1, as most are."""

    def cancel(self) -> bool:
        """Take it out of the queue, and return whether it was cancelled: parts of it waited."""
        return self._cancel(self)

    def waits(self) -> bool:
        """Return whether parts of it are queued."""
        return self.started < len(self.parts) and not self.done()

    def size(self) -> int:
        """Return what its queued parts count together."""
        if self.sizes is None:
            return len(self.parts) - self.started
        return sum(self.sizes[self.started :])

    def next_size(self) -> int:
        """Return what its next part counts."""
        return 1 if self.sizes is None else self.sizes[self.started]


class Batch:
    """Parts of works that run together."""

    __slots__ = ("abandoned", "ends", "parts", "size", "started", "works")

    def __init__(self, works: list[Work], parts: list[int], size: int, started: float) -> None:
        self.works = works
        """The work of each part."""
        self.parts = parts
        """Each part's number within its work."""
        self.size = size
        """What the parts count together."""
        self.started = started
        self.ends: float | None = None
        """When it is expected to end, if that can be said."""
        self.abandoned = False
        """Whether it took too long, so that nobody waits for it any more."""

    def payloads(self) -> list[Any]:
        """Return what is to be run."""
        return [work.parts[i] for work, i in zip(self.works, self.parts, strict=True)]


class _Lane:
    """The queued works of one priority, earliest deadline first."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, int, Work]] = []
        self.works = 0
        self.size = 0
        self.stale = 0
        self.latest = float("-inf")
        """No queued work is due after this."""
        self.by_slot: dict[int, int] = {}
        """Sizes summed by deadline, a slot each 1/64 s."""

    def add(self, work: Work) -> None:
        """Queue a work."""
        self.put_back(work)
        self.works += 1
        self.resize(work, 1 if work.lone else work.size())

    def put_back(self, work: Work) -> None:
        """Give a work an entry."""
        deadline = work.deadline
        heapq.heappush(self.entries, (deadline, work.ticket, work))
        self.latest = max(self.latest, deadline)

    def pop_lone(self, most: int) -> list[Work]:
        """Start and return the works that are due first, as long as they are lone ones."""
        entries, started = self.entries, list[Work]()
        slot = count = 0
        while entries and len(started) < most:
            deadline, ticket, work = entries[0]
            if work.ticket == ticket:
                if not work.lone:
                    break
                work.ticket, work.started = -1, 1
                work.start()
                started.append(work)
                at = int(deadline * _SLOTS_PER_SECOND)
                if at != slot:
                    self._resize(slot, -count)
                    slot, count = at, 0
                count += 1
            else:
                self.stale -= 1
            heapq.heappop(entries)
        self._resize(slot, -count)
        self.works -= len(started)
        return started

    def resize(self, work: Work, size: int) -> None:
        """Add to what a work counts."""
        self._resize(int(work.deadline * _SLOTS_PER_SECOND), size)

    def _resize(self, slot: int, size: int) -> None:
        if not size:
            return
        self.size += size
        total = self.by_slot.get(slot, 0) + size
        if total:
            self.by_slot[slot] = total
        else:
            del self.by_slot[slot]

    def remove(self, work: Work) -> None:
        """Forget a work whose entry stays, to be skipped, or thrown out with many others."""
        self.works -= 1
        self.resize(work, -work.size())
        work.ticket = -1
        self.stale += 1
        if self.stale > 64 and self.stale * 2 > len(self.entries):
            self.entries = [entry for entry in self.entries if entry[2].ticket == entry[1]]
            heapq.heapify(self.entries)
            self.stale = 0

    def first(self) -> Work | None:
        """Return the work that is due first."""
        entries = self.entries
        while entries:
            _, ticket, work = entries[0]
            if work.ticket == ticket:
                return work
            heapq.heappop(entries)
            self.stale -= 1
        self.latest = float("-inf")
        return None

    def due_by(self, deadline: float) -> int:
        """Return the size of what is due by an instant."""
        if deadline >= self.latest:
            return self.size
        slot = int(deadline * _SLOTS_PER_SECOND)
        return sum(size for at, size in self.by_slot.items() if at <= slot)


class WorkQueue:
    """Works by priority, and within one by deadline, until they are settled, each exactly once.

    Args:
        name: Appears in messages.
        max_batch: The most that the parts of a batch count together; a larger part runs alone.
        max_wait: Seconds that a batch which is not full waits for more; 0: it never waits.
    """

    def __init__(self, name: str, *, max_batch: int, max_wait: float = 0.0) -> None:
        self._name = name
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._lanes = [_Lane() for _ in Priority]
        self._tickets = itertools.count(1)
        self._arrivals: deque[Work] = deque()
        """In order of arrival; kept only if batches wait."""

    def __len__(self) -> int:
        return sum(lane.works for lane in self._lanes)

    def waiting(self, priority: Priority) -> int:
        """Return how many works of this priority and better ones wait."""
        if not priority:
            return self._lanes[0].works
        return sum(lane.works for lane in self._lanes[: priority + 1])

    def ahead(self, priority: Priority, deadline: float) -> int:
        """Return the size of what would leave before a work that is pushed now."""
        due = self._lanes[priority].due_by(deadline)
        return due + sum(lane.size for lane in self._lanes[:priority]) if priority else due

    def push(self, work: Work) -> None:
        """Queue a work."""
        work.ticket = next(self._tickets)
        self._lanes[work.priority].add(work)
        if self._max_wait:
            self._forget_arrivals()
            self._arrivals.append(work)

    def raise_priority(self, work: Work, priority: Priority, deadline: float) -> bool:
        """Give a queued work a better priority or a later deadline; return whether it got it."""
        if not work.waits() or (priority >= work.priority and deadline <= work.deadline):
            return False
        self._lanes[work.priority].remove(work)
        work.priority = priority = min(priority, work.priority)
        work.deadline = max(deadline, work.deadline)
        work.ticket = next(self._tickets)
        self._lanes[priority].add(work)
        return True

    def cancel(self, work: Work) -> bool:
        """Take a work out; return whether it was queued, and so is cancelled."""
        if not work.waits():
            return False
        self._drop(work)
        work.settle_cancelled()
        return True

    def expire(self, now: float) -> list[Work]:
        """Fail the works whose deadline has passed, and return them."""
        expired = []
        for lane in self._lanes:
            while (work := lane.first()) is not None and work.deadline <= now:
                self._drop(work)
                work.settle(None, DeadlineExceeded(f"{self._name} had no time for it in time."))
                expired.append(work)
        return expired

    def ready_at(self) -> float | None:
        """Return the instant from which `take` returns a batch; None: nothing is queued."""
        size = sum(lane.size for lane in self._lanes)
        if not size:
            return None
        if not self._max_wait or size >= self._max_batch:
            return float("-inf")
        self._forget_arrivals()
        return self._arrivals[0].queued_at + self._max_wait

    def take(self, now: float) -> Batch | None:
        """Return what runs next: the most urgent works, as many as fit. Call `expire` before."""
        batch = Batch([], [], 0, now)
        share = max(1, self._max_batch // 2)
        for lane in self._lanes:
            large: list[Work] = []
            while batch.size < self._max_batch and (work := lane.first()) is not None:
                if work.lone:
                    works = lane.pop_lone(self._max_batch - batch.size)
                    batch.works += works
                    batch.parts += [0] * len(works)
                    batch.size += len(works)
                    continue
                if not self._fill(batch, work, lane, share):
                    break
                if work.waits():
                    # A work of many parts leaves half of each batch to others, if there are any.
                    heapq.heappop(lane.entries)
                    large.append(work)
            for work in large:
                self._fill(batch, work, lane, self._max_batch)
                if work.waits():
                    lane.put_back(work)
                else:
                    lane.stale -= 1  # its entry is gone already
            if lane.size:
                break
        return batch if batch.works else None

    def _fill(self, batch: Batch, work: Work, lane: _Lane, most: int) -> bool:
        """Move parts of a work into a batch, ``most`` together; return whether any fitted."""
        taken = 0
        while work.started < len(work.parts):
            size = work.next_size()
            if batch.size and batch.size + size > self._max_batch:
                break
            if taken and taken + size > most:
                break
            if not work.started:
                work.start()
            lane.resize(work, -size)
            batch.works.append(work)
            batch.parts.append(work.started)
            batch.size += size
            taken += size
            work.started += 1
        if work.started == len(work.parts) and taken:
            lane.works -= 1
            work.ticket = -1
            lane.stale += 1
        return taken > 0

    def finish(self, batch: Batch, results: Sequence[Any]) -> list[Work]:
        """Give the parts their results; return the works that are settled by that.

        Args:
            batch: What was taken.
            results: One for each part, in order; an exception fails its work alone.
        """
        settled = []
        for work, part, result in zip(batch.works, batch.parts, results, strict=True):
            if work.done():
                continue  # cancelled, expired or failed by another part, or abandoned
            if isinstance(result, Exception):
                if work.waits():
                    self._drop(work)
                work.settle(None, result)
            elif work.single:
                work.settle(result)
            else:
                if work.results is None:
                    work.results = [None] * len(work.parts)
                    work.missing = len(work.parts)
                work.results[part] = result
                work.missing -= 1
                if work.missing:
                    continue
                work.settle(work.results)
            settled.append(work)
        return settled

    def abandon(self, batch: Batch, error: Exception) -> list[Work]:
        """Fail all of a batch that nobody waits for any longer; return its works."""
        batch.abandoned = True
        return self.finish(batch, [error] * len(batch.works))

    def _forget_arrivals(self) -> None:
        """Keep only those from the oldest on that waits."""
        while self._arrivals and not self._arrivals[0].waits():
            self._arrivals.popleft()

    def _drop(self, work: Work) -> None:
        self._lanes[work.priority].remove(work)
