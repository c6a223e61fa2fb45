"""Computing what another version would have answered, once the answer is out."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from plugins import Priority, RecserveError
from serving_app.core.features import Layout, Row, reordered
from serving_app.core.latency import LatencyCounts, LatencyHistogram
from serving_app.core.live_models import PRODUCTION, SHADOW, Lease, LiveModels
from serving_app.core.rank_overlap import overlap, rank_biased_overlap
from serving_app.core.ranking import Ranking
from serving_app.core.traffic_split import WHOLE

__all__ = ["COMPARED", "Pair", "ShadowStats", "Shadows"]

logger = logging.getLogger(__name__)

COMPARED = 10
"""Items at the top of both rankings that are compared."""
MOST_WAITING = 64
"""Comparisons that may wait; what comes then is dropped, and counted."""
MOST_PAIRS = 50
"""Pairs of versions whose counts are kept."""

Pair: TypeAlias = tuple[str, int, int]
"""Model name, production's version, and the shadow's."""


@dataclass(frozen=True, slots=True)
class ShadowStats:
    """What was counted of one shadow beside one version."""

    compared: int = 0
    errors: int = 0
    dropped: int = 0
    """Not computed: too many waited, or the versions take other features."""
    overlap: float = 0.0
    """Sum, over the compared, of the part of the top `COMPARED` that both have."""
    rank_biased_overlap: float = 0.0
    """Sum over the compared."""
    same_first: int = 0
    """Those that agree on the first item."""
    seconds: LatencyCounts = field(default_factory=lambda: LatencyCounts({}, 0.0, 0.0))
    """How long the shadow took."""

    @classmethod
    def merged(cls, parts: Iterable[ShadowStats]) -> ShadowStats:
        """Return the counts of several processes as one's."""
        parts = list(parts)
        return cls(
            compared=sum(part.compared for part in parts),
            errors=sum(part.errors for part in parts),
            dropped=sum(part.dropped for part in parts),
            overlap=sum(part.overlap for part in parts),
            rank_biased_overlap=sum(part.rank_biased_overlap for part in parts),
            same_first=sum(part.same_first for part in parts),
            seconds=LatencyCounts.merged(part.seconds for part in parts),
        )


class _Counts:
    """Mutable counts of one pair."""

    def __init__(self) -> None:
        self.compared = self.errors = self.dropped = self.same_first = 0
        self.overlap = self.rank_biased_overlap = 0.0
        self.seconds = LatencyHistogram()


@dataclass(frozen=True, slots=True)
class _Job:
    model_name: str
    version: int
    layout: Layout
    row: Row
    depth: int
    ranking: Ranking


class Shadows:
    """Lets shadows compute, one row at a time, on a thread of its own, at the lowest priority.

    `offer` is called by the thread that has just handed out the answer; it never waits.

    Args:
        live: Knows the shadows.
        clock: Monotonic seconds.
        rng: Draws the sample.
    """

    def __init__(
        self,
        live: LiveModels,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
    ) -> None:
        self._live = live
        self._clock = clock
        self._rng = rng or Random()  # noqa: S311  (it samples, and guards no secret)
        self._jobs: queue.Queue[_Job | None] = queue.Queue(MOST_WAITING)
        self._counts: dict[Pair, _Counts] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def offer(self, lease: Lease, row: Row, depth: int, ranking: Ranking) -> None:
        """Compare, later, what was computed with what the model's shadow computes, if it has one.

        The lease is the caller's, and is not kept.
        """
        record = lease.version.record
        share, shadow = self._live.shadow(record.model_name)
        if not share or lease.alias != PRODUCTION or self._rng.random() * WHOLE >= share:
            return
        job = _Job(record.model_name, record.version, lease.version.layout, row, depth, ranking)
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._drop(job, shadow)
            return
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._compare(job)
            except Exception:  # a shadow's trouble is nobody else's
                logger.exception("The shadow of %s could not be compared", job.model_name)

    def _compare(self, job: _Job) -> None:
        lease = self._live.find(job.model_name, alias=SHADOW)
        if lease is None:
            return  # it has gone since
        try:
            record = lease.version.record
            counts = self._count(job, record.version)
            row = reordered(job.row, job.layout, lease.version.layout)
            if row is None:
                self._drop(job, record.version)
                return
            started = self._clock()
            try:
                computation = lease.version.submit(row, job.depth, priority=Priority.WARM_UP)
                try:
                    ranking = computation.result(record.timeout)
                finally:
                    computation.cancel()  # late: nobody wants it any more
            except (RecserveError, FutureTimeoutError):
                counts.errors += 1
                return
            counts.seconds.record(self._clock() - started)
            ours, theirs = job.ranking.items, ranking.items
            counts.compared += 1
            counts.overlap += overlap(ours, theirs, COMPARED)
            counts.rank_biased_overlap += rank_biased_overlap(ours, theirs, COMPARED)
            counts.same_first += ours[:1] == theirs[:1]
        finally:
            lease.release()

    def _drop(self, job: _Job, shadow: int) -> None:
        counts = self._count(job, shadow)
        with self._lock:
            counts.dropped += 1

    def _count(self, job: _Job, shadow: int) -> _Counts:
        with self._lock:
            counts = self._counts.setdefault((job.model_name, job.version, shadow), _Counts())
            while len(self._counts) > MOST_PAIRS:
                del self._counts[next(iter(self._counts))]
            return counts

    def stats(self) -> dict[Pair, ShadowStats]:
        """Return what was counted."""
        with self._lock:
            pairs = dict(self._counts)
        return {
            pair: ShadowStats(
                compared=counts.compared,
                errors=counts.errors,
                dropped=counts.dropped,
                overlap=counts.overlap,
                rank_biased_overlap=counts.rank_biased_overlap,
                same_first=counts.same_first,
                seconds=counts.seconds.counts(),
            )
            for pair, counts in pairs.items()
        }

    def close(self) -> None:
        """Drop what waits, and end the thread."""
        with self._lock:
            self._closed = True
        if self._thread is None:
            return
        while self._thread.is_alive():
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                self._jobs.put(None)
                self._thread.join()
