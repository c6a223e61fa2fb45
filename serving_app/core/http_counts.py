"""HTTP requests of this process, counted by method, route and status."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque

from serving_app.core.latency import LatencyCounts, LatencyHistogram

__all__ = ["HttpCounts"]

_ASIDE = 128
"""Requests that are put aside at most."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpCounts:
    """Counts requests. Any thread counts. Routes are patterns: there are only so many."""

    def __init__(self) -> None:
        self._statuses: Counter[tuple[str, str, str]] = Counter()
        self._seconds: dict[tuple[str, str], LatencyHistogram] = {}
        self._lock = threading.Lock()
        self._aside: deque[tuple[str, str, float]] = deque()

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

    def count_ok(self, method: str, route: str, seconds: float) -> None:
        """Count one request that was answered with 200, as `count` would, and later.

        It is put aside, and counted with others: when there are many, or someone looks.
        """
        self._aside.append((method, route, seconds))
        if len(self._aside) >= _ASIDE:
            with self._lock:
                self._count_aside()

    def _count_aside(self) -> None:
        """Count what was put aside. The lock is held."""
        aside = self._aside
        seconds_of: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for _ in range(len(aside)):
            method, route, seconds = aside.popleft()
            seconds_of[method, route].append(seconds)
        for key, durations in seconds_of.items():
            self._statuses[*key, "200"] += len(durations)
            histogram = self._seconds.get(key)
            if histogram is None:
                histogram = self._seconds[key] = LatencyHistogram()
            histogram.record_all(durations)

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Return requests by method, route and status."""
        with self._lock:
            self._count_aside()
            return dict(self._statuses)

    def seconds(self) -> dict[tuple[str, str], LatencyCounts]:
        """Return durations by method and route."""
        with self._lock:
            self._count_aside()
            return {key: histogram.counts() for key, histogram in self._seconds.items()}
