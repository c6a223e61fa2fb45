"""Durations and sizes, counted in buckets, so that histograms of several processes add up."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

_PER_DECADE = 20
BOUNDS: tuple[float, ...] = tuple(
    1e-6 * 10 ** (i / _PER_DECADE) for i in range(8 * _PER_DECADE + 1)
)
"""Upper bounds in seconds, 1 µs to 100 s; 20 per decade keeps a quantile within 12 %."""
_BOUNDS = np.array(BOUNDS)
_MANY = 256
"""So many durations are counted together."""
_AT_FIRST = 20
"""The moving average of so many is their mean."""
_FORGET = 0.95
"""What a value still weighs in the moving average when the next one comes."""
_WEIGHTS = (1 - _FORGET) * _FORGET ** np.arange(_MANY - 1, -1, -1)
"""Of the last values; those before weigh nothing."""


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
    """Counts durations. Any thread may record.

    They are put aside first, and counted together: when there are many, or when someone looks.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(len(BOUNDS) + 1, dtype=np.int64)
        self._sum = 0.0
        self._average = 0.0
        self._count = 0
        self._fresh: list[float] = []
        """Not counted yet, in order."""
        self._lock = threading.Lock()

    def record(self, seconds: float) -> None:
        """Count one duration."""
        self.record_all((seconds,))

    def record_all(self, durations: Iterable[float]) -> None:
        """Count several durations, in order."""
        with self._lock:
            self._fresh += durations
            if len(self._fresh) >= _MANY:
                self._count_fresh()

    def counts(self) -> LatencyCounts:
        """Return what was counted so far."""
        with self._lock:
            self._count_fresh()
            buckets = {bucket: n for bucket, n in enumerate(self._counts.tolist()) if n}
            return LatencyCounts(buckets, self._sum, self._average)

    def _count_fresh(self) -> None:
        """Count what was put aside."""
        first = min(max(0, _AT_FIRST - self._count), len(self._fresh))
        for seconds in self._fresh[:first]:
            self._count += 1
            self._average += (seconds - self._average) / self._count
        fresh = np.array(self._fresh)
        self._fresh.clear()
        self._counts += np.bincount(np.searchsorted(_BOUNDS, fresh), minlength=len(self._counts))
        self._sum += float(fresh.sum())
        self._count += len(fresh) - first
        last = fresh[first:][-len(_WEIGHTS) :]
        if len(last):
            self._average *= _FORGET ** len(last)
            self._average += float(_WEIGHTS[-len(last) :] @ last)


def _quantile(buckets: Mapping[int, int], count: int, q: float) -> float:
    """Return the upper bound of the bucket that holds the quantile."""
    rank = q * count
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= rank:
            return BOUNDS[min(bucket, len(BOUNDS) - 1)]
    return 0.0
