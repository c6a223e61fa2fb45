"""What a batcher decides: whom to accept, what runs next, who is settled. It has no threads.

Every method is called under the batcher's lock, with the time given, and returns the works that
got an outcome, to be announced once the lock is free.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from plugins import InferenceError, ModelNotReady, PoolCounts, Priority, QueueFull
from serving_app.core.admission import Admission
from serving_app.core.batcher_stats import BatcherStats
from serving_app.core.latency import LatencyHistogram
from serving_app.core.work_queue import Batch, LargeWork, Work, WorkQueue

__all__ = ["BatchScheduler"]

_MANY = 256
"""So many durations are counted together."""
_UNKNOWN, _ASKED = -2, -1
"""How much may surely be queued is not known; and it is worth finding out, for a second work."""
_LARGEST = 4096
"""Batches up to this size are counted by the next power of two."""
_LONGEST = 1e6
"""Seconds; a deadline beyond is as good as none, and no number to compute with."""


class BatchScheduler:
    """The state of one model's batching.

    Args:
        name: Appears in messages.
        lock: The batcher's, for the futures.
        cancel: What a future calls to be cancelled.
        max_batch: The most that the parts of a batch count together.
        max_queue: The most works of its priority and better ones that a new one may find waiting.
        max_wait: Seconds that a batch which is not full waits for more.
        instances: Returns how many batches may run at once.
        admission: Says who can be answered in time.
    """

    def __init__(
        self,
        name: str,
        *,
        lock: threading.Lock,
        cancel: Callable[[Work], bool],
        max_batch: int,
        max_queue: int,
        max_wait: float,
        instances: Callable[[], int],
        admission: Admission,
    ) -> None:
        self._name = name
        self._lock = lock
        self._cancel = cancel
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._instances = instances
        self._admission = admission
        self._queue = WorkQueue(name, max_batch=max_batch, max_wait=max_wait)
        self.running: list[Batch] = []
        self.closed = False
        self._submitted = self._batches = self._failed = self._abandoned = 0
        self._cancelled = self._expired = 0
        self._sure_size, self._sure_seconds = _UNKNOWN, 0.0
        """While no more than this is queued, works that have so many seconds are accepted."""
        self._rejected: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._queue_seconds = LatencyHistogram()
        self._model_seconds = LatencyHistogram()
        self._total_seconds = LatencyHistogram()
        self._failed_seconds = LatencyHistogram()
        self._queued: list[float] = []
        self._ran: list[float] = []
        self._done: list[float] = []

    def submit(
        self,
        part: Any,
        *,
        now: float,
        seconds: float,
        priority: Priority,
        key: Hashable | None,
    ) -> Work:
        """Queue a work of one part that counts 1, and return it.

        Raises:
            QueueFull: It would find too many waiting, or could not be done in time.
            ModelNotReady: The batcher is closed.
        """
        if (
            self._queue.live.size < self._sure_size
            and not priority
            and self._sure_seconds <= seconds <= _LONGEST
            and not self.closed
            and not (key is not None and self._admission.appointments)
        ):
            deadline = now + seconds
        else:
            deadline = self._admit(1, now, seconds, priority, key)
            if self._sure_size == _ASKED:
                self._foresee(min(seconds, _LONGEST))
            elif self._sure_size == _UNKNOWN:
                self._sure_size = _ASKED
        work = Work(
            self._lock, self._cancel, part, priority=priority, deadline=deadline, queued_at=now
        )
        self._queue.push(work)
        self._submitted += 1
        return work

    def submit_large(
        self,
        parts: Sequence[Any],
        sizes: Sequence[int] | None,
        *,
        now: float,
        seconds: float,
        priority: Priority,
        key: Hashable | None,
        single: bool,
    ) -> Work:
        """Queue any other work, and return it: see `submit`."""
        size = len(parts) if sizes is None else sum(sizes)
        work = LargeWork(
            self._lock,
            self._cancel,
            parts,
            sizes,
            single=single,
            priority=priority,
            deadline=self._admit(size, now, seconds, priority, key),
            queued_at=now,
        )
        self._queue.push(work)
        self._submitted += 1
        return work

    def _admit(
        self, size: int, now: float, seconds: float, priority: Priority, key: Hashable | None
    ) -> float:
        """Return the deadline of a work that may be queued.

        That it must not is found out before it is made.
        """
        if self.closed:
            raise ModelNotReady(f"{self._name} is shutting down.")
        seconds = min(seconds, _LONGEST)
        deadline = now + seconds
        instances = max(1, self._instances())
        free_in = self._free_in(now, instances)
        if self._queue.waiting(priority) >= self._max_queue:
            chain = self._admission.cost.chain(size, self._max_batch)
            wait = self._admission.come_back(
                now=now,
                excess=free_in + (chain or 0.0) / instances,
                size=size,
                instances=instances,
                key=key,
            )
            self._rejected["queue_full"] += 1
            raise QueueFull(
                f"{self._max_queue} requests wait for {self._name} already.", retry_after=wait
            )
        refusal = self._admission.refusal(
            now=now,
            seconds=seconds,
            ahead=self._queue.ahead(priority, deadline),
            size=size,
            free_in=free_in,
            instances=instances,
            key=key,
        )
        if refusal is not None:
            self._rejected["deadline"] += 1
            raise QueueFull(
                f"{self._name} has too much to do to answer within {seconds:.3g} s.",
                retry_after=refusal,
            )
        return deadline

    def _foresee(self, seconds: float) -> None:
        """Find out how much may be queued so that any work is accepted that has so many seconds.

        Until a batch begins or ends, others need not be looked at as closely as the first two.
        """
        self._sure_seconds = seconds
        most = self._admission.surely(
            seconds,
            busy=max([each.expected or 0.0 for each in self.running], default=0.0),
            instances=max(1, self._instances()),
        )
        self._sure_size = max(0, min(most, self._max_queue))

    def _free_in(self, now: float, instances: int) -> float:
        """Return the seconds until an instance is free, by what its batch is expected to take."""
        if len(self.running) < instances:
            return 0.0
        if len(self.running) == 1:
            return _rest(self.running[0], now)
        return min(_rest(batch, now) for batch in self.running)

    def has_room(self) -> bool:
        """Return whether one more batch may run."""
        return not self.running or len(self.running) < self._instances()

    def ready_in(self, now: float) -> float | None:
        """Return the seconds until `take` has a batch, 0 for now; None: nothing is queued."""
        ready = self._queue.ready_at()
        if ready is None:
            return None
        return 0.0 if self.closed else max(0.0, ready - now)

    def expire(self, now: float) -> list[Work]:
        """Fail the queued works whose deadline has passed."""
        expired = self._queue.expire(now)
        if expired:
            self._expired += len(expired)
            self._failed_seconds.record_all([now - work.queued_at for work in expired])
        return expired

    def take(self, now: float) -> Batch | None:
        """Return the batch that runs next, if anything is queued. Call `expire` before."""
        batch = self._queue.take(now)
        if batch is None:
            return None
        batch.expected = self._admission.cost.predict(batch.size)
        self.running.append(batch)
        self._sure_size = _UNKNOWN
        self._batches += 1
        rounded = 1 << (batch.size - 1).bit_length()
        self._sizes[rounded if rounded <= _LARGEST else batch.size] += 1
        self._queued += [now - work.queued_at for work in batch.works]
        return batch

    def finish(
        self, batch: Batch, results: Sequence[Any], *, now: float, failed: bool = False
    ) -> list[Work]:
        """Give a batch's works their results.

        Args:
            batch: What was taken.
            results: One for each part; an exception fails its work alone.
            now: When the model was done.
            failed: Whether the batch failed as a whole, so that its parts were tried apart.
        """
        self._failed += failed
        if batch.abandoned:
            return []
        settled = self._queue.finish(batch, results, now)
        self._ran.append(now - batch.started)
        failed_works = [work for work in settled if work.has_failed()]
        if failed_works:
            self._failed_seconds.record_all([now - work.queued_at for work in failed_works])
            self._done += [now - work.queued_at for work in settled if not work.has_failed()]
        else:
            self._done += [now - work.queued_at for work in settled]
        if len(self._done) >= _MANY or len(self._ran) >= _MANY:
            self._record()
        return settled

    def _record(self) -> None:
        """Count what was put aside."""
        for seconds, histogram in (
            (self._queued, self._queue_seconds),
            (self._ran, self._model_seconds),
            (self._done, self._total_seconds),
        ):
            histogram.record_all(seconds)
            seconds.clear()

    def leave(self, batch: Batch, now: float, *, typical: bool = True) -> None:
        """Let the next batch run: the results of this one have been handed out, too.

        Args:
            batch: What was taken.
            now: The instant.
            typical: Whether it tells how long batches take.
        """
        if batch.abandoned:
            return
        self.running.remove(batch)
        self._sure_size = _UNKNOWN
        if typical:
            self._admission.cost.observe(batch.size, now - batch.started)

    def cancel(self, work: Work) -> bool:
        """Take a work out of the queue; return whether it was cancelled."""
        cancelled = self._queue.cancel(work)
        self._cancelled += cancelled
        return cancelled

    def raise_priority(self, work: Work, priority: Priority, deadline: float = 0.0) -> bool:
        """Let a queued work go before those of lower priority, and keep it until the deadline."""
        return self._queue.raise_priority(work, priority, deadline)

    def abandon(self, now: float, limit: float) -> list[tuple[Batch, list[Work]]]:
        """Give up the batches that have run longer than the limit; return them and their works."""
        given_up = []
        for batch in [each for each in self.running if now - each.started > limit]:
            error = InferenceError(f"{self._name} did not answer within {limit:g} s.")
            works = self._queue.abandon(batch, error, now)
            self._failed_seconds.record_all([now - work.queued_at for work in works])
            given_up.append((batch, works))
            self.running.remove(batch)
            self._abandoned += 1
        return given_up

    def stats(self, pool: PoolCounts) -> BatcherStats:
        """Return what was counted so far."""
        self._record()
        return BatcherStats(
            submitted=self._submitted,
            rejected=self._rejected.total(),
            batches=self._batches,
            failed_batches=self._failed,
            queued=len(self._queue),
            running=len(self.running),
            batch_sizes=dict(sorted(self._sizes.items())),
            queue_seconds=self._queue_seconds.counts(),
            model_seconds=self._model_seconds.counts(),
            total_seconds=self._total_seconds.counts(),
            failed_seconds=self._failed_seconds.counts(),
            rejected_by=dict(sorted(self._rejected.items())),
            expired=self._expired,
            cancelled=self._cancelled,
            abandoned_batches=self._abandoned,
            cost_per_batch=self._admission.cost.b,
            cost_per_row=self._admission.cost.a,
            pool=pool,
        )


def _rest(batch: Batch, now: float) -> float:
    """Return the seconds that a running batch is expected to take yet.

    One that is late may take as long again as it is late, but no longer than it should have taken:
    a process that was not let run for a while is no reason to refuse anyone.
    """
    expected = batch.expected
    if expected is None:
        return 0.0
    late = now - batch.started - expected
    return -late if late <= 0 else min(late, expected)
