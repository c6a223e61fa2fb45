"""Durations and sizes, counted in buckets, so that histograms of several processes add up."""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_PER_DECADE = 20
BOUNDS: tuple[float, ...] = tuple(
    1e-6 * 10 ** (i / _PER_DECADE) for i in range(8 * _PER_DECADE + 1)
)
"""Upper bounds in seconds, 1 µs to 100 s; 20 per decade keeps a quantile within 12 %."""


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Quantiles of durations, in seconds."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    average: float
    """Exponential moving average; the last 20 values weigh about 63 %."""


@dataclass(frozen=True, slots=True)
class LatencyCounts:
    """What a histogram counted: plain numbers, which those of other processes can be added to."""

    buckets: dict[int, int]
    """Durations by bucket of `BOUNDS`; buckets without any are left out."""
    total: float
    """Their sum, in seconds."""
    average: float
    """Their exponential moving average, in seconds."""

    @property
    def count(self) -> int:
        """Return how many durations were counted."""
        return sum(self.buckets.values())

    @classmethod
    def merged(cls, parts: Iterable[LatencyCounts]) -> LatencyCounts:
        """Return the counts of several histograms as one; averages weigh by their counts."""
        buckets: Counter[int] = Counter()
        total = weighted = 0.0
        for part in parts:
            buckets.update(part.buckets)
            total += part.total
            weighted += part.average * part.count
        return cls(dict(sorted(buckets.items())), total, weighted / max(1, buckets.total()))

    def summary(self) -> LatencySummary:
        """Return count, mean, quantiles and moving average; all zero without any value."""
        count = self.count
        p50, p90, p99 = (_quantile(self.buckets, count, q) for q in (0.5, 0.9, 0.99))
        mean = self.total / count if count else 0.0
        return LatencySummary(count, mean, p50, p90, p99, self.average)


class LatencyHistogram:
    """Counts durations. Any thread may record."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        self._average = 0.0
        self._count = 0
        self._lock = threading.Lock()

    def record(self, seconds: float) -> None:
        """Count one duration."""
        self.record_all((seconds,))

    def record_all(self, durations: Iterable[float]) -> None:
        """Count several durations, in order."""
        counts, bucket_of, bounds = self._counts, bisect.bisect_left, BOUNDS
        with self._lock:
            total, count, average = self._sum, self._count, self._average
            for seconds in durations:
                counts[bucket_of(bounds, seconds)] += 1
                total += seconds
                count += 1
                average += (seconds - average) * (0.05 if count > 20 else 1 / count)
            self._sum, self._count, self._average = total, count, average

    def counts(self) -> LatencyCounts:
        """Return what was counted so far."""
        with self._lock:
            buckets = {bucket: n for bucket, n in enumerate(self._counts) if n}
            return LatencyCounts(buckets, self._sum, self._average)


def _quantile(buckets: Mapping[int, int], count: int, q: float) -> float:
    """Return the upper bound of the bucket that holds the quantile."""
    rank = q * count
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= rank:
            return BOUNDS[min(bucket, len(BOUNDS) - 1)]
    return 0.0
