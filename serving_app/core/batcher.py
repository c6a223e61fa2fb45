"""Dynamic batching: whatever queued while the last batch ran is the next batch.

The greedy, work-conserving rule: a request never waits for others to join it. It saturates as a
window of 50 ms does, at a small part of its latency, and needs no knob. What is decided, and how,
is `BatchScheduler`'s; here are the threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar, cast

from plugins import ElasticModel, HostedModel, InferenceError, PoolCounts, Priority, Unavailable
from serving_app.core.admission import Admission
from serving_app.core.batch_scheduler import BatchScheduler
from serving_app.core.batcher_stats import BatcherStats
from serving_app.core.work_queue import Batch, Work

__all__ = ["Batcher", "BatcherStats", "Instances"]

Part = TypeVar("Part")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_TEND_SECONDS = 1.0
"""How often stuck batches, expired works and idle instances are looked for."""


class Instances:
    """How many batches may run at once: as many as the model has instances.

    Args:
        model: What is asked for its instances; a number: so many, always.
    """

    def __init__(self, model: HostedModel | int = 1) -> None:
        self._model = model
        elastic = model if isinstance(model, ElasticModel) else None
        self._elastic = elastic
        self.most = elastic.max_instances if elastic else self.now()
        """The most that there will ever be."""
        self.limit: float | None = elastic.batch_seconds if elastic else None
        """Seconds after which a batch is given up; None: never."""

    def now(self) -> int:
        """Return how many there are."""
        return self._model if isinstance(self._model, int) else self._model.instances

    def begins(self, batch: Batch) -> None:
        """Tell the pool how long the oldest work of a batch was queued."""
        if self._elastic:
            oldest = min([work.queued_at for work in batch.works])
            self._elastic.queued(batch.started - oldest)

    def tend(self) -> None:
        """Let idle ones be freed, and missing ones be loaded."""
        if self._elastic:
            self._elastic.tend()

    def abandon(self, thread: int) -> None:
        """Tell that a batch was given up, and the thread that is stuck in it."""
        if self._elastic:
            self._elastic.abandon(thread)

    def stats(self) -> PoolCounts:
        """Return what was counted."""
        if self._elastic:
            return self._elastic.counts()
        return PoolCounts(instances=self.now(), least=self.most, most=self.most)


class Batcher(Generic[Part, Result]):
    """Collects works into batches and runs them on threads of its own.

    Args:
        run: Takes a batch, returns one result per part in its order; an exception instance as a
            result fails that part alone. Called by as many threads at once as there are instances.
        name: Appears in thread names and messages.
        max_batch: The most that the parts of a batch count together.
        max_queue: The most works that a new one may find waiting; beyond it `submit` refuses.
        max_wait: Seconds that a batch which is not full waits for more; 0: it never does.
        instances: How many batches may run at once.
        admission: Says who can be answered in time; None: one of its own, with the defaults.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Part]], Sequence[Result | Exception]],
        *,
        name: str,
        max_batch: int = 64,
        max_queue: int = 1024,
        max_wait: float = 0.0,
        instances: Instances | None = None,
        admission: Admission | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._name = name
        self._clock = clock
        self._instances = instances or Instances()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._ended = threading.Condition(self._lock)
        self._idle = 0
        self._threads: dict[int, threading.Thread] = {}
        """By identifier; without those that were given up."""
        self._in: dict[Batch, int] = {}
        """The thread of each batch."""
        self._scheduler = BatchScheduler(
            name,
            lock=self._lock,
            cancel=self._cancel,
            max_batch=max_batch,
            max_queue=max_queue,
            max_wait=max_wait,
            instances=self._instances.now,
            admission=admission or Admission(max_batch=max_batch),
        )
        self._started = 0
        with self._lock:
            for _ in range(self._instances.most):
                self._start_thread()
        self._tender = threading.Thread(target=self._tend, name=f"tender-{name}", daemon=True)
        self._tender.start()

    def submit(
        self,
        part: Part,
        *,
        size: int = 1,
        seconds: float = 10.0,
        priority: Priority = Priority.LIVE,
        key: Hashable | None = None,
    ) -> Future[Result]:
        """Queue one work, and return the future of its result.

        The future fails with `InferenceError` if the model fails, and with `DeadlineExceeded` if
        its seconds go by in the queue. Cancelling it before its batch starts takes the work out.

        Args:
            part: What is run.
            size: What it counts of a batch.
            seconds: How long its result is of use, from now on.
            priority: What goes first when not everything can.
            key: Recognises a caller who was refused, and comes back when told to.

        Raises:
            QueueFull: Too many works wait, or they leave too little time for this one.
            ModelNotReady: The batcher is closed.
        """
        with self._lock:
            scheduler, now = self._scheduler, self._clock()
            work: Work
            if size == 1:
                work = scheduler.submit(part, now=now, seconds=seconds, priority=priority, key=key)
            else:
                work = scheduler.submit_large(
                    (part,),
                    (size,),
                    now=now,
                    seconds=seconds,
                    priority=priority,
                    key=key,
                    single=True,
                )
            if self._idle and scheduler.has_room():
                self._wake.notify()
        return work

    def submit_many(
        self,
        parts: Sequence[Part],
        *,
        sizes: Sequence[int] | None = None,
        seconds: float = 10.0,
        priority: Priority = Priority.LIVE,
        key: Hashable | None = None,
    ) -> Future[list[Result]]:
        """Queue one work of several parts, and return the future of the list of their results.

        Its parts may run in several batches, of which it leaves half to others. The first part
        that fails fails the work. The rest is as with `submit`.
        """
        if not parts:
            raise ValueError("a work has at least one part")
        with self._lock:
            work = self._scheduler.submit_large(
                tuple(parts),
                sizes,
                now=self._clock(),
                seconds=seconds,
                priority=priority,
                key=key,
                single=False,
            )
            if self._idle and self._scheduler.has_room():
                self._wake.notify()
        return work

    def raise_priority(
        self, future: Future[Any], priority: Priority, *, seconds: float = 0.0
    ) -> bool:
        """Let a queued work go before those of lower priority; return whether that helped.

        Args:
            future: What `submit` returned.
            priority: The better priority; a lower one changes nothing.
            seconds: How long its result is of use, from now on, if that is longer than was said.
        """
        if not isinstance(future, Work):
            return False
        with self._lock:
            deadline = self._clock() + min(seconds, 1e6)
            return self._scheduler.raise_priority(future, priority, deadline)

    def close(self) -> None:
        """Refuse new work, finish what is queued, end the threads. Not for a batch's thread."""
        with self._lock:
            self._scheduler.closed = True
            self._wake.notify_all()
            self._ended.wait_for(lambda: not self._threads)
            self._ended.notify_all()  # the tender, that helped against stuck batches until now
        self._tender.join()

    def stats(self) -> BatcherStats:
        """Return what was counted so far."""
        pool = self._instances.stats()
        with self._lock:
            return self._scheduler.stats(pool)

    def _cancel(self, work: Work) -> bool:
        with self._lock:
            cancelled = self._scheduler.cancel(work)
        if cancelled:
            work.announce()
        return cancelled or work.cancelled()

    def _start_thread(self) -> None:
        """Start one more thread. Called with the lock held, which the thread needs first."""
        self._started += 1
        thread = threading.Thread(
            target=self._serve, name=f"batcher-{self._name}-{self._started}", daemon=True
        )
        thread.start()
        self._threads[cast("int", thread.ident)] = thread

    def _serve(self) -> None:
        """Run batches until the batcher is closed, or one of them was given up."""
        me = threading.get_ident()
        done: Batch | None = None
        typical = True
        while True:
            expired: list[Work] = []
            with self._lock:
                if done is not None:
                    if done.abandoned:
                        return  # another thread has taken this one's place
                    self._in.pop(done)
                    self._scheduler.leave(done, self._clock(), typical=typical)
                batch = self._next(expired)
                if batch is not None:
                    self._in[batch] = me
                elif not expired:
                    self._threads.pop(me, None)
                    self._ended.notify_all()
                    return
            for work in expired:
                work.announce()
            done = batch
            if batch is None:
                continue
            self._instances.begins(batch)
            results, runs = self._results(batch, batch.payloads)
            typical = runs == 1
            with self._lock:
                settled = self._scheduler.finish(batch, results, now=self._clock(), failed=runs > 1)
                batch.forget()
            # Whoever is told is let go at once, so that what comes next finds room in the cache.
            del results
            settled.reverse()
            while settled:
                settled.pop().announce()

    def _next(self, expired: list[Work]) -> Batch | None:
        """Wait for a batch; None: the batcher is closed, or there are expired works to announce."""
        scheduler = self._scheduler
        while True:
            now = self._clock()
            expired += scheduler.expire(now)
            ready_in = scheduler.ready_in(now)
            if ready_in is None:
                if scheduler.closed:
                    self._wake.notify_all()
                    return None
            elif ready_in <= 0 and scheduler.has_room():
                batch = scheduler.take(now)
                if self._idle and scheduler.has_room() and scheduler.ready_in(now) is not None:
                    self._wake.notify()  # there is more than this batch
                return batch
            if expired:
                return None
            self._idle += 1
            try:
                self._wake.wait(ready_in if ready_in and scheduler.has_room() else None)
            finally:
                self._idle -= 1

    def _results(
        self, batch: Batch, parts: Sequence[Part]
    ) -> tuple[Sequence[Result | Exception], int]:
        """Return a batch's results, and in how many runs; halve it until who fails is alone."""
        try:
            results = self._run(parts)
            if len(results) != len(parts):
                raise InferenceError(
                    f"{self._name} returned {len(results)} results for a batch of {len(parts)}."
                )
        except Exception as error:  # noqa: BLE001  (handed to every waiter)
            failure = _as_unavailable(self._name, error)
            one_row = isinstance(failure, InferenceError)  # other errors are nobody's in particular
            if len(parts) == 1 or not one_row or batch.abandoned:
                return [failure] * len(parts), 1
            half = len(parts) // 2
            first, runs = self._results(batch, parts[:half])
            second, more = self._results(batch, parts[half:])
            return [*first, *second], 1 + runs + more
        return results, 1

    def _tend(self) -> None:
        """Look after what no thread of a batch can."""
        while True:
            with self._lock:
                self._ended.wait(_TEND_SECONDS)
                if self._scheduler.closed and not self._threads:
                    return
            self.tend()

    def tend(self) -> None:
        """Give up stuck batches, fail expired works, free idle instances.

        A thread does it about once a second.
        """
        settled: list[Work] = []
        stuck: list[int] = []
        with self._lock:
            now = self._clock()
            settled += self._scheduler.expire(now)
            if self._instances.limit is not None:
                for batch, works in self._scheduler.abandon(now, self._instances.limit):
                    settled += works
                    stuck.append(self._in.pop(batch))
            for thread in stuck:
                del self._threads[thread]
                self._start_thread()
        for work in settled:
            work.announce()
        for thread in stuck:
            logger.error("%s hangs: a batch of it was given up", self._name)
            self._instances.abandon(thread)
        self._instances.tend()


def _as_unavailable(name: str, error: Exception) -> Unavailable:
    if isinstance(error, Unavailable):
        return error
    failure = InferenceError(f"{name} failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
