"""Dynamic batching: whatever queued while the last batch ran is the next batch.

The greedy, work-conserving rule: a request never waits for others to join it. It saturates as a
window of 50 ms does, at a small part of its latency, and needs no knob.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from plugins import InferenceError, ModelNotReady, QueueFull
from serving_app.core.latency import LatencyCounts, LatencyHistogram

Work = TypeVar("Work")
Result = TypeVar("Result")

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class BatcherStats:
    """Counts since the batcher started."""

    submitted: int
    rejected: int
    batches: int
    failed_batches: int
    queued: int
    running: int
    batch_sizes: dict[int, int]
    """Batches by size, rounded up to a power of two."""
    queue_seconds: LatencyCounts
    model_seconds: LatencyCounts

    @classmethod
    def merged(cls, parts: Sequence[BatcherStats]) -> BatcherStats:
        """Return the counts of several batchers as one's."""
        sizes: Counter[int] = Counter()
        for part in parts:
            sizes.update(part.batch_sizes)
        return cls(
            submitted=sum(part.submitted for part in parts),
            rejected=sum(part.rejected for part in parts),
            batches=sum(part.batches for part in parts),
            failed_batches=sum(part.failed_batches for part in parts),
            queued=sum(part.queued for part in parts),
            running=sum(part.running for part in parts),
            batch_sizes=dict(sorted(sizes.items())),
            queue_seconds=LatencyCounts.merged(part.queue_seconds for part in parts),
            model_seconds=LatencyCounts.merged(part.model_seconds for part in parts),
        )


@dataclass(slots=True)
class _Item(Generic[Work, Result]):
    work: Work
    queued_at: float
    future: Future[Result] = field(default_factory=Future)


class Batcher(Generic[Work, Result]):
    """Collects work into batches and runs them on threads of its own.

    Args:
        run: Takes a batch, returns one result per work in its order; an exception instance as a
            result fails that work alone. Called by as many threads at once as there are threads.
        name: Appears in thread names and messages.
        max_batch: The most works in one batch.
        max_queue: The most works waiting; beyond it `submit` refuses.
        threads: How many batches may run at once: the instances of the model.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Work]], Sequence[Result | Exception]],
        *,
        name: str,
        max_batch: int = 64,
        max_queue: int = 1024,
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._name = name
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._clock = clock
        self._queue: deque[_Item[Work, Result]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._submitted = self._rejected = self._batches = self._failed_batches = self._running = 0
        self._sizes: Counter[int] = Counter()
        self._queue_seconds = LatencyHistogram()
        self._model_seconds = LatencyHistogram()
        self._threads = [
            threading.Thread(target=self._work, name=f"batcher-{name}-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> Future[Result]:
        """Queue work and return the future of its result.

        The future fails with `InferenceError` if the model fails. Cancelling it before its batch
        starts takes the work out.

        Raises:
            QueueFull: ``max_queue`` works wait already.
            ModelNotReady: The batcher is closed.
        """
        item: _Item[Work, Result] = _Item(work, self._clock())
        with self._wake:
            if self._closed:
                raise ModelNotReady(f"{self._name} is shutting down.")
            if len(self._queue) >= self._max_queue:
                self._rejected += 1
                raise QueueFull(
                    f"{self._max_queue} requests wait for {self._name} already.",
                    retry_after=self._seconds_to_drain(),
                )
            self._queue.append(item)
            self._submitted += 1
            self._wake.notify()
        return item.future

    def close(self) -> None:
        """Refuse new work, finish what is queued, end the threads. Not for a batch's thread."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def stats(self) -> BatcherStats:
        """Return what was counted so far."""
        with self._wake:
            return BatcherStats(
                submitted=self._submitted,
                rejected=self._rejected,
                batches=self._batches,
                failed_batches=self._failed_batches,
                queued=len(self._queue),
                running=self._running,
                batch_sizes=dict(sorted(self._sizes.items())),
                queue_seconds=self._queue_seconds.counts(),
                model_seconds=self._model_seconds.counts(),
            )

    def _seconds_to_drain(self) -> float:
        batches = len(self._queue) / (self._max_batch * len(self._threads))
        return max(0.05, batches * self._model_seconds.counts().average)

    def _work(self) -> None:
        while batch := self._next_batch():
            started = self._clock()
            results = self._results([item.work for item in batch])
            ended = self._clock()
            self._model_seconds.record(ended - started)
            with self._wake:
                self._running -= 1
            for item, result in zip(batch, results, strict=True):
                self._queue_seconds.record(started - item.queued_at)
                if isinstance(result, Exception):
                    item.future.set_exception(result)
                else:
                    item.future.set_result(result)

    def _next_batch(self) -> list[_Item[Work, Result]]:
        """Wait for work, and return all that is queued, up to the limit; empty: closed."""
        batch: list[_Item[Work, Result]] = []
        with self._wake:
            while not batch:
                while not self._queue and not self._closed:
                    self._wake.wait()
                if not self._queue:
                    return []
                while self._queue and len(batch) < self._max_batch:
                    item = self._queue.popleft()
                    if item.future.set_running_or_notify_cancel():
                        batch.append(item)
            self._batches += 1
            self._running += 1
            self._sizes[next((s for s in _SIZES if len(batch) <= s), len(batch))] += 1
        return batch

    def _results(self, works: Sequence[Work]) -> Sequence[Result | Exception]:
        """Return the batch's results; if the batch fails, try each work alone."""
        try:
            results = self._run(works)
            if len(results) != len(works):
                raise InferenceError(
                    f"{self._name} returned {len(results)} results for a batch of {len(works)}."
                )
        except Exception as error:  # noqa: BLE001  (handed to every waiter)
            with self._wake:
                self._failed_batches += 1
            if len(works) == 1:
                return [_as_inference_error(self._name, error)]
            return [result for work in works for result in self._results([work])]
        return results


def _as_inference_error(name: str, error: Exception) -> InferenceError:
    if isinstance(error, InferenceError):
        return error
    failure = InferenceError(f"{name} failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
