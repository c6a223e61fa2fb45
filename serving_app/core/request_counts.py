"""What was asked of each model, and how it ended."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from plugins import ModelNotFound, Recommendation, RecserveError
from serving_app.core.latency import LatencyCounts, LatencyHistogram

__all__ = ["RecommenderStats", "RequestCounts"]


@dataclass(frozen=True, slots=True)
class RecommenderStats:
    """What was asked of one model in this process."""

    requests: int
    by_source: dict[str, int]
    """Answers by source: ``model``, ``l1``, ``fallback``, …"""
    stale: int
    """Answers, of those, that were stale."""
    degraded: int
    """Answers, of those, that stood in for a model that could not answer."""
    errors: dict[str, int]
    """Refused or failed requests by error."""
    seconds: LatencyCounts
    """From the request to its answer."""

    @classmethod
    def merged(cls, parts: Sequence[RecommenderStats]) -> RecommenderStats:
        """Return the counts of several processes as one's."""
        by_source: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        for part in parts:
            by_source.update(part.by_source)
            errors.update(part.errors)
        return cls(
            requests=sum(part.requests for part in parts),
            by_source=dict(by_source),
            stale=sum(part.stale for part in parts),
            degraded=sum(part.degraded for part in parts),
            errors=dict(errors),
            seconds=LatencyCounts.merged(part.seconds for part in parts),
        )


class _Counts:
    """Mutable counts of one model."""

    def __init__(self) -> None:
        self.by_source: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.stale = self.degraded = 0
        self.seconds = LatencyHistogram()


class RequestCounts:
    """Counts requests by model. Any thread counts."""

    def __init__(self) -> None:
        self._counts: dict[str, _Counts] = {}
        self._lock = threading.Lock()

    def count(
        self, model_name: str, result: Recommendation | RecserveError, seconds: float
    ) -> None:
        """Count a request to a model, how it ended, and how long it took."""
        if isinstance(result, ModelNotFound) and model_name not in self._counts:
            return  # rubbish names must not grow the statistics
        with self._lock:
            counts = self._counts.setdefault(model_name, _Counts())
            if isinstance(result, RecserveError):
                counts.errors[type(result).__name__] += 1
            else:
                counts.by_source[result.source] += 1
                counts.stale += result.stale_for > 0
                counts.degraded += result.degraded
        counts.seconds.record(seconds)

    def stats(self) -> dict[str, RecommenderStats]:
        """Return what was counted, by model name."""
        with self._lock:
            return {
                name: RecommenderStats(
                    requests=counts.by_source.total() + counts.errors.total(),
                    by_source=dict(counts.by_source),
                    stale=counts.stale,
                    degraded=counts.degraded,
                    errors=dict(counts.errors),
                    seconds=counts.seconds.counts(),
                )
                for name, counts in self._counts.items()
            }
