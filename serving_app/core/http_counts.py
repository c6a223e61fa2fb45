"""HTTP requests of this process, counted by method, route and status."""

from __future__ import annotations

import threading
from collections import Counter

from serving_app.core.latency import LatencyCounts, LatencyHistogram

__all__ = ["HttpCounts"]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpCounts:
    """Counts requests. Any thread counts. Routes are patterns: there are only so many."""

    def __init__(self) -> None:
        self._statuses: Counter[tuple[str, str, str]] = Counter()
        self._seconds: dict[tuple[str, str], LatencyHistogram] = {}
        self._lock = threading.Lock()

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; an empty route is none of ours, status 0 no answer."""
        method = method if method in _METHODS else "OTHER"
        key = (method, route or "none")
        with self._lock:
            self._statuses[*key, str(status)] += 1
            histogram = self._seconds.get(key)
            if histogram is None:
                histogram = self._seconds[key] = LatencyHistogram()
        histogram.record(seconds)

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Return requests by method, route and status."""
        with self._lock:
            return dict(self._statuses)

    def seconds(self) -> dict[tuple[str, str], LatencyCounts]:
        """Return durations by method and route."""
        with self._lock:
            return {key: histogram.counts() for key, histogram in self._seconds.items()}
