"""What was asked of each model, and how it ended."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from plugins import ModelNotFound, Recommendation, RecserveError
from serving_app.core.latency import BOUNDS, LatencyCounts

__all__ = ["MISS", "NEGATIVE", "NO_LOOKUP", "RecommenderStats", "RequestCounts"]

MISS = "miss"
"""A look-up after which the answer did not come out of the cache."""
NEGATIVE = "negative"
"""A look-up after which the question was refused out of the cache."""
NO_LOOKUP = "none"
"""No look-up: the request was refused, or failed, before."""
_HITS = 128
"""Hits that are put aside at most."""

BySegment = dict[str, dict[str, LatencyCounts]]


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
    durations: BySegment = field(default_factory=dict)
    """``seconds``, by the user's segment and how the look-up ended, `NO_LOOKUP` included."""

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
            durations=_merged(part.durations for part in parts),
        )


def _merged(parts: Iterable[Mapping[str, Mapping[str, LatencyCounts]]]) -> BySegment:
    cells: defaultdict[str, defaultdict[str, list[LatencyCounts]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for part in parts:
        for segment, by_lookup in part.items():
            for lookup, seconds in by_lookup.items():
                cells[segment][lookup].append(seconds)
    return {
        segment: {lookup: LatencyCounts.merged(each) for lookup, each in by_lookup.items()}
        for segment, by_lookup in cells.items()
    }


class _Cell:
    """Requests of one segment whose look-ups ended alike."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets: defaultdict[int, int] = defaultdict(int)
        self.seconds = 0.0


class _Counts:
    """Mutable counts of one model."""

    def __init__(self) -> None:
        self.by_source: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.stale = self.degraded = self.n = 0
        self.average = 0.0
        self.cells: defaultdict[tuple[str, str], _Cell] = defaultdict(_Cell)

    def took(self, segment: str, lookup: str, bucket: int, seconds: float) -> None:
        """Count how long a request took."""
        cell = self.cells[segment, lookup]
        cell.buckets[bucket] += 1
        cell.seconds += seconds
        self.n += 1
        weight = 0.05 if self.n > 20 else 1 / self.n
        self.average += (seconds - self.average) * weight

    def stats(self) -> RecommenderStats:
        """Return them as plain values."""
        durations: BySegment = {}
        lookups: dict[str, dict[str, int]] = {}
        for (segment, lookup), cell in self.cells.items():
            buckets = dict(sorted(cell.buckets.items()))
            counts = LatencyCounts(buckets, cell.seconds, self.average)
            durations.setdefault(segment, {})[lookup] = counts
            if lookup != NO_LOOKUP:
                lookups.setdefault(segment, {})[lookup] = counts.count
        cells = [each for by_lookup in durations.values() for each in by_lookup.values()]
        return RecommenderStats(
            requests=self.by_source.total() + self.errors.total(),
            by_source=dict(self.by_source),
            stale=self.stale,
            degraded=self.degraded,
            errors=dict(self.errors),
            seconds=LatencyCounts.merged(cells),
            lookups=lookups,
            durations=durations,
        )


class RequestCounts:
    """Counts requests by model. Any thread counts."""

    def __init__(self) -> None:
        self._counts: dict[str, _Counts] = {}
        self._lock = threading.Lock()
        self._hits: deque[tuple[str, str, str, float]] = deque()

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
        bucket = bisect_left(BOUNDS, seconds)
        with self._lock:
            counts = self._counts.get(model_name)
            if counts is None:
                counts = self._counts[model_name] = _Counts()
            counts.took(segment, lookup or NO_LOOKUP, bucket, seconds)
            if isinstance(result, RecserveError):
                counts.errors[type(result).__name__] += 1
            else:
                counts.by_source[result.source] += 1
                counts.stale += result.stale_for > 0
                counts.degraded += result.degraded

    def count_hit(self, model_name: str, level: str, segment: str, seconds: float) -> None:
        """Count a fresh answer out of the cache, as `count` would.

        It is put aside, and counted with others: when there are many, or someone looks.

        Args:
            model_name: The model.
            level: The level that answered.
            segment: The user's segment.
            seconds: How long it took.
        """
        self._hits.append((model_name, level, segment, seconds))
        if len(self._hits) >= _HITS:
            with self._lock:
                self._count_hits()

    def _count_hits(self) -> None:
        """Count what was put aside. The lock is held."""
        hits = self._hits
        seconds_of: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
        for _ in range(len(hits)):
            model_name, level, segment, seconds = hits.popleft()
            seconds_of[model_name, level, segment].append(seconds)
        for (model_name, level, segment), durations in seconds_of.items():
            counts = self._counts.get(model_name)
            if counts is None:
                counts = self._counts[model_name] = _Counts()
            counts.by_source[level] += len(durations)
            for seconds in durations:
                counts.took(segment, level, bisect_left(BOUNDS, seconds), seconds)

    def stats(self) -> dict[str, RecommenderStats]:
        """Return what was counted, by model name."""
        with self._lock:
            self._count_hits()
            return {name: counts.stats() for name, counts in self._counts.items()}
