"""What happened between two looks at the statistics of all processes, and figures over such points.

Each process tells its counts every two seconds, at moments of its own. A look therefore stands for
the mean of the moments at which processes told: what one of two tells twice as late then counts
half as much in the time as it does in the counts, and rates stay even.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from serving_app.core.batcher_stats import BatcherStats
from serving_app.core.latency import LatencyCounts
from serving_app.core.request_counts import MISS, NEGATIVE, RecommenderStats
from serving_app.core.statistics import Statistics

__all__ = ["SILENT", "ModelPoint", "Point", "Told", "difference", "engines", "figures"]

SILENT = 7.0
"""Seconds without a word after which a process counts as silent: three times it was not heard."""

_LEVEL_COUNTS = ("hits", "misses", "evictions", "expirations", "errors")

K = TypeVar("K")
Version = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Told:
    """What one process told last."""

    seen: float
    """When, in Unix seconds."""
    statistics: Statistics
    levels: Mapping[str, Mapping[str, Any]]
    """The counts of each level of the cache."""


@dataclass(frozen=True, slots=True)
class ModelPoint:
    """What was counted of one model, or of several together."""

    by_source: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    lookups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By segment, then by how the look-up ended."""
    seconds: LatencyCounts = field(default_factory=lambda: LatencyCounts({}, 0.0, 0.0))
    """From requests to their answers."""
    batch_sizes: Mapping[int, int] = field(default_factory=dict)
    rejected: int = 0
    queued: int = 0
    """Rows that wait at the end."""
    running: int = 0
    """Batches that run at the end."""

    @property
    def requests(self) -> int:
        """Return how many requests there were, refused and failed ones included."""
        return sum(self.by_source.values()) + sum(self.errors.values())

    @classmethod
    def summed(cls, parts: Sequence[ModelPoint]) -> ModelPoint:
        """Return several as one; what waits is what waits in the last."""
        segments = {name for part in parts for name in part.lookups}
        return cls(
            _sum(part.by_source for part in parts),
            _sum(part.errors for part in parts),
            {name: _sum(part.lookups.get(name, {}) for part in parts) for name in segments},
            LatencyCounts.merged(part.seconds for part in parts),
            _sum(part.batch_sizes for part in parts),
            sum(part.rejected for part in parts),
            sum(part.queued for part in parts),
            sum(part.running for part in parts),
        )

    def is_empty(self) -> bool:
        """Return whether nothing happened, and nothing waits."""
        return not (self.requests or self.batch_sizes or self.rejected or self.queued)


@dataclass(frozen=True, slots=True)
class Point:
    """What all processes together counted between two looks."""

    at: float
    """Its end, in Unix seconds."""
    seconds: float
    """How long it lasted."""
    models: Mapping[str, ModelPoint]
    """Models without anything are left out."""
    levels: Mapping[str, Mapping[str, int]]
    """Counts of each level of the cache."""
    silent: tuple[str, ...]
    """Processes whose counts are missing: they had not told for `SILENT` seconds, or came back."""


def difference(
    before: Mapping[str, Told], after: Mapping[str, Told], *, now: float
) -> Point | None:
    """Return what was counted between two looks; None: nobody has told anything since.

    A process that was not there before only begins to count.

    Args:
        before: What each process had told at the look before.
        after: What each has told now.
        now: When that was read, in Unix seconds.
    """
    both = before.keys() & after.keys()
    if not both:
        return None
    start = sum(before[name].seen for name in both) / len(both)
    end = sum(after[name].seen for name in both) / len(both)
    if end <= start:
        return None
    silent = sorted(
        name
        for name in after
        if now - after[name].seen > SILENT
        or (name in before and after[name].seen - before[name].seen > 2 * SILENT)
    )
    counts: dict[str, list[ModelPoint]] = {}
    levels: dict[str, list[Mapping[str, int]]] = {}
    for name in both:
        old, new = before[name], after[name]
        for model, stats in new.statistics.models.items():
            counts.setdefault(model, []).append(_requests(old.statistics.models.get(model), stats))
        for level, each in new.levels.items():
            levels.setdefault(level, []).append(
                _grown(_of_level(old.levels.get(level, {})), _of_level(each))
            )
    known = engines({name: before[name] for name in both})
    for engine, ((model, _), batching) in engines(after).items():
        point = _batches(known[engine][1] if engine in known else None, batching)
        counts.setdefault(model, []).append(point)
    models = {name: ModelPoint.summed(parts) for name, parts in counts.items()}
    return Point(
        end,
        end - start,
        {name: point for name, point in models.items() if not point.is_empty()},
        {name: _sum(parts) for name, parts in levels.items()},
        tuple(silent),
    )


def engines(told: Mapping[str, Told]) -> dict[str, tuple[Version, BatcherStats]]:
    """Return what each engine counted, by its name; of one that processes share, the latest."""
    found: dict[str, tuple[Version, BatcherStats]] = {}
    for each in told.values():
        for model, numbers in each.statistics.versions.items():
            for number, version in numbers.items():
                for name, stats in version.engines.items():
                    known = found.get(name)
                    if known is None or known[1].submitted <= stats.submitted:
                        found[name] = (model, number), stats
    return found


def _requests(before: RecommenderStats | None, after: RecommenderStats) -> ModelPoint:
    if before is None or before.requests > after.requests:
        before = RecommenderStats.merged([])
    return ModelPoint(
        _grown(before.by_source, after.by_source),
        _grown(before.errors, after.errors),
        {
            segment: _grown(before.lookups.get(segment, {}), counted)
            for segment, counted in after.lookups.items()
        },
        LatencyCounts(
            _grown(before.seconds.buckets, after.seconds.buckets),
            max(0.0, after.seconds.total - before.seconds.total),
            after.seconds.average,
        ),
    )


def _batches(before: BatcherStats | None, after: BatcherStats) -> ModelPoint:
    """Return what an engine counted; one that began anew, all of it."""
    if before is None or before.submitted > after.submitted:
        before = BatcherStats.merged([])
    return ModelPoint(
        batch_sizes=_grown(before.batch_sizes, after.batch_sizes),
        rejected=max(0, after.rejected - before.rejected),
        queued=after.queued,
        running=after.running,
    )


def _of_level(counts: Mapping[str, Any]) -> dict[str, int]:
    return {name: counts.get(name, 0) for name in _LEVEL_COUNTS}


def _grown(before: Mapping[K, int], after: Mapping[K, int]) -> dict[K, int]:
    """Return by how much each count has grown, of those that have."""
    grown = {name: n - before.get(name, 0) for name, n in after.items()}
    return {name: n for name, n in grown.items() if n > 0}


def _sum(parts: Iterable[Mapping[K, int]]) -> dict[K, int]:
    total: dict[K, int] = {}
    for part in parts:
        for name, n in part.items():
            total[name] = total.get(name, 0) + n
    return total


def figures(
    points: Sequence[Point], *, model: str | None = None, segment: str | None = None
) -> dict[str, Any]:
    """Return what points together say, as JSON values.

    Args:
        points: The points, at least one.
        model: Of which model; None: of all.
        segment: Of which segment's look-ups; None: of all. Only look-ups are counted by segment.
    """
    parts = [
        each
        for point in points
        for name, each in point.models.items()
        if model is None or name == model
    ]
    seconds = sum(point.seconds for point in points)
    total = ModelPoint.summed(parts)
    lookups = _sum(
        counted for name, counted in total.lookups.items() if segment is None or name == segment
    )
    asked = sum(n for name, n in lookups.items() if name != NEGATIVE)
    latency = total.seconds.summary()
    batches = sum(total.batch_sizes.values())
    last = points[-1].models
    waiting = [each for name, each in last.items() if model is None or name == model]
    whole = segment is None
    return {
        "at": round(points[-1].at, 3),
        "seconds": round(seconds, 3),
        "silent": sorted({name for point in points for name in point.silent}),
        "requests": total.requests if whole else sum(lookups.values()),
        "rate": round((total.requests if whole else sum(lookups.values())) / seconds, 3),
        "errors": sum(total.errors.values()) if whole else None,
        "by_source": dict(sorted(total.by_source.items())) if whole else None,
        "lookups": dict(sorted(lookups.items())),
        "hit_rate": round(1 - lookups.get(MISS, 0) / asked, 4) if asked else None,
        "levels": {
            name: round(n / asked, 4)
            for name, n in sorted(lookups.items())
            if name not in {MISS, NEGATIVE}
        }
        if asked
        else {},
        "latency_ms": {
            name: round(getattr(latency, name) * 1000, 3) for name in ("p50", "p90", "p99")
        }
        if whole and latency.count
        else None,
        "batch_sizes": {str(size): n for size, n in sorted(total.batch_sizes.items())},
        "batch_mean": round(sum(s * n for s, n in total.batch_sizes.items()) / batches, 2)
        if batches
        else None,
        "rejected": total.rejected,
        "queued": sum(each.queued for each in waiting),
        "running": sum(each.running for each in waiting),
    }
