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

from cache_app.core.light_future import LightFuture
from plugins import BatchTimes, DeadlineExceeded, Priority

__all__ = ["Batch", "LargeWork", "Work", "WorkQueue"]

_SLOTS_PER_SECOND = 64
"""How finely queued work is summed by deadline."""
_tickets = itertools.count(1)


class Work(LightFuture[Any]):
    """One submitted work, as most are: one part that counts 1, and the future of its result.

    Args:
        lock: The batcher's.
        cancel: Cancels it; the batcher's.
        part: What is run.
        priority: What goes first when not everything can.
        deadline: Monotonic instant after which the result is of no use.
        queued_at: Monotonic instant of its submission.
    """

    __slots__ = ("_cancel", "deadline", "in_order", "part", "priority", "queued_at", "run")

    ticket = 0
    """Which of its places beside the line counts; 0: none does."""

    def __init__(
        self,
        lock: threading.Lock,
        cancel: Callable[[Work], bool],
        part: Any,
        *,
        priority: Priority,
        deadline: float,
        queued_at: float,
    ) -> None:
        LightFuture.__init__(self, lock)  # `super()` takes twice the time
        self._cancel = cancel
        self.part = part
        self.priority = priority
        self.deadline = deadline
        self.queued_at = queued_at
        self.in_order = False
        """Whether its place in the line counts."""
        self.run: tuple[int, float, float] | None = None
        """Size, start and end of the batch that settled it."""

    @property
    def batch(self) -> BatchTimes | None:
        """What a caller may know of the batch that settled it."""
        if self.run is None:
            return None
        size, started, ended = self.run
        return BatchTimes(size, started - self.queued_at, ended - started)

    def cancel(self) -> bool:
        """Take it out of the queue, and return whether it was cancelled: parts of it waited."""
        return self._cancel(self)

    def waits(self) -> bool:
        """Return whether parts of it are queued."""
        return not self.running() and not self.done()

    def size(self) -> int:
        """Return what its queued parts count together."""
        return 1


class LargeWork(Work):
    """A work of several parts, or of one that counts more than 1.

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

    __slots__ = ("missing", "parts", "results", "single", "sizes", "started")

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
        super().__init__(
            lock, cancel, None, priority=priority, deadline=deadline, queued_at=queued_at
        )
        self.parts = parts
        self.sizes = sizes
        self.single = single
        self.started = 0
        """How many parts have been put into batches."""
        self.results: list[Any] = [None] * len(parts)
        self.missing = len(parts)
        """How many parts have no result."""

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
    """Parts of works that run together.

    Args:
        started: Monotonic instant.
    """

    __slots__ = ("abandoned", "expected", "numbers", "payloads", "size", "started", "works")

    def __init__(self, started: float) -> None:
        self.works: list[Work] = []
        """The work of each part."""
        self.payloads: list[Any] = []
        """What is to be run: the parts."""
        self.numbers: list[int] = []
        """Each part's number within its work."""
        self.size = 0
        """What the parts count together."""
        self.started = started
        self.expected: float | None = None
        """The seconds that it is expected to take, if that can be said."""
        self.abandoned = False
        """Whether it took too long, so that nobody waits for it any more."""

    def add(self, work: Work, part: Any, number: int, size: int) -> None:
        """Add a part of a work."""
        self.works.append(work)
        self.payloads.append(part)
        self.numbers.append(number)
        self.size += size

    def forget(self) -> None:
        """Let go of the works, once they are settled."""
        self.works, self.payloads, self.numbers = [], [], []


class _Lane:
    """The queued works of one priority, earliest deadline first.

    Most come in the order of their deadlines, and stand in line; the others are in a heap beside.
    """

    def __init__(self) -> None:
        self.line: deque[Work] = deque()
        """In the order of their deadlines; those that are not `in_order` have left."""
        self.beside: list[tuple[float, int, Work]] = []
        """A heap; of those whose ticket is another the work has left."""
        self.works = 0
        self.size = 0
        self.stale = 0
        """How many places, in line and beside, count no more."""
        self.latest = float("-inf")
        """If any are queued, none is due after this."""
        self.by_slot: dict[int, int] = {}
        """Sizes summed by deadline, a slot each 1/64 s."""

    def add(self, work: Work) -> None:
        """Queue a work that was never queued before."""
        line, deadline = self.line, work.deadline
        if line and deadline < line[-1].deadline:
            self.add_beside(work)
            return
        work.in_order = True
        line.append(work)
        if deadline > self.latest or not self.works:
            self.latest = deadline
        self.works += 1
        slot, size = int(deadline * _SLOTS_PER_SECOND), work.size()
        self.size += size
        self.by_slot[slot] = self.by_slot.get(slot, 0) + size

    def add_beside(self, work: Work) -> None:
        """Queue a work out of order, or one that may have an old place in line."""
        self.put_back(work)
        self.works += 1
        self.resize(work, work.size())

    def put_back(self, work: Work) -> None:
        """Give a work a place beside the line."""
        work.ticket = next(_tickets)
        heapq.heappush(self.beside, (work.deadline, work.ticket, work))
        self.latest = max(self.latest, work.deadline)

    def pop_lone(self, batch: Batch, most: int) -> None:
        """Move the works that are due first into a batch, as long as they are of one part, in line.

        Args:
            batch: Where to.
            most: The most that the batch may count then.
        """
        line, until = self.line, float("inf")
        if self.beside:
            until = self.beside[0][0]
        room = most - batch.size
        before = len(batch.works)
        works, payloads = batch.works, batch.payloads
        slot = count = 0
        while room and line:
            work = line[0]
            if work.in_order:
                deadline = work.deadline
                if deadline > until or isinstance(work, LargeWork):
                    break
                work.in_order = False
                work.start()
                works.append(work)
                payloads.append(work.part)
                room -= 1
                at = int(deadline * _SLOTS_PER_SECOND)
                if at != slot:
                    self._resize(slot, -count)
                    slot, count = at, 0
                count += 1
            else:
                self.stale -= 1
            line.popleft()
        self._resize(slot, -count)
        moved = len(works) - before
        batch.numbers += [0] * moved
        batch.size += moved
        self.works -= moved

    def pop(self, work: Work) -> None:
        """Take out the place of the work that is first."""
        if work.in_order:
            work.in_order = False
            self.line.popleft()
        else:
            work.ticket = 0
            heapq.heappop(self.beside)

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
        """Forget a work whose place stays, to be skipped, or thrown out with many others."""
        self.works -= 1
        self.resize(work, -work.size())
        work.in_order = False
        work.ticket = 0
        self.stale += 1
        if self.stale > 64 and self.stale * 2 > len(self.line) + len(self.beside):
            self.line = deque(work for work in self.line if work.in_order)
            self.beside = [place for place in self.beside if place[2].ticket == place[1]]
            heapq.heapify(self.beside)
            self.stale = 0

    def first(self) -> Work | None:
        """Return the work that is due first."""
        line, beside = self.line, self.beside
        while line and not line[0].in_order:
            line.popleft()
            self.stale -= 1
        while beside and beside[0][2].ticket != beside[0][1]:
            heapq.heappop(beside)
            self.stale -= 1
        if beside and not (line and line[0].deadline <= beside[0][0]):
            return beside[0][2]
        if line:
            return line[0]
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
        self.live = self._lanes[Priority.LIVE]
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
        self._lanes[priority].add_beside(work)
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
            while lane.works and (work := lane.first()) is not None and work.deadline <= now:
                self._drop(work)
                work.settle(None, DeadlineExceeded(f"{self._name} had no time for it in time."))
                expired.append(work)
        return expired

    def ready_at(self) -> float | None:
        """Return the instant from which `take` returns a batch; None: nothing is queued."""
        live, refresh, warm_up = self._lanes
        size = live.size + refresh.size + warm_up.size
        if not size:
            return None
        if not self._max_wait or size >= self._max_batch:
            return float("-inf")
        self._forget_arrivals()
        return self._arrivals[0].queued_at + self._max_wait

    def take(self, now: float) -> Batch | None:
        """Return what runs next: the most urgent works, as many as fit. Call `expire` before."""
        batch = Batch(now)
        share = max(1, self._max_batch // 2)
        for lane in self._lanes:
            if not lane.works:
                continue
            large: list[LargeWork] = []
            while batch.size < self._max_batch and (work := lane.first()) is not None:
                if isinstance(work, LargeWork):
                    if not self._fill(batch, work, lane, share):
                        break
                    lane.pop(work)
                    if work.waits():
                        # It leaves half of each batch to others, if there are any.
                        large.append(work)
                elif work.in_order:
                    lane.pop_lone(batch, self._max_batch)
                else:
                    lane.pop(work)
                    lane.works -= 1
                    lane.resize(work, -1)
                    work.start()
                    batch.add(work, work.part, 0, 1)
            for work in large:
                self._fill(batch, work, lane, self._max_batch)
                if work.waits():
                    lane.put_back(work)
            if lane.size:
                break
        return batch if batch.works else None

    def _fill(self, batch: Batch, work: LargeWork, lane: _Lane, most: int) -> bool:
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
            batch.add(work, work.parts[work.started], work.started, size)
            taken += size
            work.started += 1
        if work.started == len(work.parts) and taken:
            lane.works -= 1
        return taken > 0

    def finish(self, batch: Batch, results: Sequence[Any], now: float) -> list[Work]:
        """Give the parts their results; return the works that are settled by that.

        Args:
            batch: What was taken.
            results: One for each part, in order; an exception fails its work alone.
            now: When the model was done.
        """
        run = (batch.size, batch.started, now)
        settled = []
        for work, number, result in zip(batch.works, batch.numbers, results, strict=True):
            if isinstance(result, Exception):
                if work.done():
                    continue  # cancelled, expired, abandoned, or failed by another part
                if work.waits():
                    self._drop(work)
                work.settle(None, result)
            elif isinstance(work, LargeWork):
                if work.done():
                    continue
                work.results[number] = result
                work.missing -= 1
                if work.missing:
                    continue
                work.settle(work.results[0] if work.single else work.results)
            else:
                work.settle(result)
            work.run = run
            settled.append(work)
        return settled

    def abandon(self, batch: Batch, error: Exception, now: float) -> list[Work]:
        """Fail all of a batch that nobody waits for any longer; return its works."""
        batch.abandoned = True
        return self.finish(batch, [error] * len(batch.works), now)

    def _forget_arrivals(self) -> None:
        """Keep only those from the oldest on that waits."""
        while self._arrivals and not self._arrivals[0].waits():
            self._arrivals.popleft()

    def _drop(self, work: Work) -> None:
        self._lanes[work.priority].remove(work)
