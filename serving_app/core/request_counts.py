"""What was asked of each model, and how it ended."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from plugins import ModelNotFound, Recommendation, RecserveError
from serving_app.core.latency import LatencyCounts, LatencyHistogram

__all__ = ["MISS", "NEGATIVE", "RecommenderStats", "RequestCounts"]

MISS = "miss"
"""A look-up after which the answer did not come out of the cache."""
NEGATIVE = "negative"
"""A look-up after which the question was refused out of the cache."""


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
    lookups: dict[str, dict[str, int]] = field(default_factory=dict)
    """How look-ups in the cache ended, by the user's segment: the level that answered, fresh or
    stale, ``miss`` or ``negative``. A request that was refused before has none."""

    @classmethod
    def merged(cls, parts: Sequence[RecommenderStats]) -> RecommenderStats:
        """Return the counts of several processes as one's."""
        by_source: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        lookups: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for part in parts:
            by_source.update(part.by_source)
            errors.update(part.errors)
            for segment, counted in part.lookups.items():
                lookups[segment].update(counted)
        return cls(
            requests=sum(part.requests for part in parts),
            by_source=dict(by_source),
            stale=sum(part.stale for part in parts),
            degraded=sum(part.degraded for part in parts),
            errors=dict(errors),
            seconds=LatencyCounts.merged(part.seconds for part in parts),
            lookups={segment: dict(counted) for segment, counted in lookups.items()},
        )


class _Counts:
    """Mutable counts of one model."""

    def __init__(self) -> None:
        self.by_source: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.stale = self.degraded = 0
        self.seconds = LatencyHistogram()
        self.lookups: defaultdict[str, Counter[str]] = defaultdict(Counter)


class RequestCounts:
    """Counts requests by model. Any thread counts."""

    def __init__(self) -> None:
        self._counts: dict[str, _Counts] = {}
        self._lock = threading.Lock()

    def count(
        self,
        model_name: str,
        result: Recommendation | RecserveError,
        seconds: float,
        *,
        segment: str,
        lookup: str | None,
    ) -> None:
        """Count a request to a model.

        Args:
            model_name: The model.
            result: How it ended.
            seconds: How long it took.
            segment: The user's.
            lookup: How its look-up in the cache ended; None: there was none.
        """
        if isinstance(result, ModelNotFound) and model_name not in self._counts:
            return  # rubbish names must not grow the statistics
        with self._lock:
            counts = self._counts.get(model_name)
            if counts is None:
                counts = self._counts[model_name] = _Counts()
            if lookup is not None:
                counts.lookups[segment][lookup] += 1
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
                    lookups={segment: dict(each) for segment, each in counts.lookups.items()},
                )
                for name, counts in self._counts.items()
            }
