"""Durations and sizes, counted in buckets, so that histograms of several processes add up."""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass

_PER_DECADE = 20
BOUNDS: tuple[float, ...] = tuple(
    1e-6 * 10 ** (i / _PER_DECADE) for i in range(8 * _PER_DECADE + 1)
)
"""Upper bounds in seconds, 1 µs to 100 s; 20 per decade keeps a quantile within 12 %."""


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Quantiles of a `LatencyHistogram`, in seconds."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    average: float
    """Exponential moving average; the last 20 values weigh about 63 %."""


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
        bucket = bisect.bisect_left(BOUNDS, seconds)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += seconds
            self._count += 1
            self._average += (seconds - self._average) * (
                0.05 if self._count > 20 else 1 / self._count
            )

    def summary(self) -> LatencySummary:
        """Return count, mean, quantiles and moving average; all zero before the first value."""
        with self._lock:
            counts, total, count, average = (
                list(self._counts),
                self._sum,
                self._count,
                self._average,
            )
        p50, p90, p99 = (_quantile(counts, count, q) for q in (0.5, 0.9, 0.99))
        return LatencySummary(count, total / count if count else 0.0, p50, p90, p99, average)


def _quantile(counts: list[int], count: int, q: float) -> float:
    """Return the upper bound of the bucket that holds the quantile."""
    rank = q * count
    seen = 0
    for bucket, n in enumerate(counts):
        seen += n
        if n and seen >= rank:
            return BOUNDS[min(bucket, len(BOUNDS) - 1)]
    return 0.0
