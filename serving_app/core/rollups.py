"""What is summed by minute, hour and day.

Everything kept is a sum: counts, seconds, and the buckets of histograms. So what several processes
counted adds up, an hour is the sum of its minutes, and a quantile of an hour is that of all its
requests. What is no sum, such as whether a level answers, is kept as the seconds for which it was
so, beside the seconds for which somebody looked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from serving_app.core.batcher import BatcherStats
from serving_app.core.latency import LatencyCounts
from serving_app.core.request_counts import NO_LOOKUP
from serving_app.core.statistics import Statistics

__all__ = [
    "LEVEL_COUNTS",
    "NO_BUCKET",
    "STEPS",
    "Counts",
    "Series",
    "Step",
    "gained",
    "of_engines",
    "of_process",
]

Step = Literal["minute", "hour", "day"]
STEPS: Mapping[Step, int] = {"minute": 60, "hour": 3600, "day": 86400}
"""Seconds of each step."""
NO_BUCKET = -1
"""The bucket of what is no histogram."""


class Series(NamedTuple):
    """What a count is of. What it is not told apart by is empty."""

    name: str
    model: str = ""
    segment: str = ""
    level: str = ""
    """The level of the cache, or how the look-up ended; of errors, the error."""
    bucket: int = NO_BUCKET
    """Of a histogram: the bucket of `latency.BOUNDS`; of batch sizes, the size."""


Counts = dict[Series, float]
LEVEL_COUNTS = (
    *("hits", "misses", "insertions", "evictions", "expirations", "promotions", "errors"),
)


def of_process(
    statistics: Statistics,
    levels: Mapping[str, Mapping[str, Any]],
    http: Mapping[tuple[str, str, str], int],
) -> Counts:
    """Return what a process counted since it began, engines left out.

    Args:
        statistics: Of serving.
        levels: Counts of the cache's levels, by name.
        http: Requests by method, route and status.
    """
    counts: defaultdict[Series, float] = defaultdict(float)
    for model, stats in statistics.models.items():
        for source, n in stats.by_source.items():
            counts[Series("answers", model, level=source)] = n
        for error, n in stats.errors.items():
            counts[Series("errors", model, level=error)] = n
        counts[Series("stale", model)] = stats.stale
        counts[Series("degraded", model)] = stats.degraded
        for segment, by_lookup in stats.durations.items():
            for lookup, seconds in by_lookup.items():
                series = Series("latency", model, segment, lookup)
                if lookup != NO_LOOKUP:
                    counts[series._replace(name="lookups")] = seconds.count
                _histogram(counts, series, seconds)
    for level, given in levels.items():
        for name in LEVEL_COUNTS:
            counts[Series(f"level_{name}", level=level)] = given.get(name, 0)
    for (_, _, status), n in http.items():
        counts[Series("http", level=f"{status[:1]}xx")] += n
    return {series: n for series, n in counts.items() if n}


def of_engines(statistics: Statistics) -> dict[str, Counts]:
    """Return what each engine counted, by its name; several processes may use one."""
    engines: dict[str, Counts] = {}
    for model, numbers in statistics.versions.items():
        for version in numbers.values():
            for name, stats in version.engines.items():
                if name:
                    engines[name] = _of_engine(model, stats)
    return engines


def _of_engine(model: str, stats: BatcherStats) -> Counts:
    counts: Counts = {
        Series("batches", model): stats.batches,
        Series("batch_failures", model): stats.failed_batches,
        Series("rows", model): stats.runs.rows,
        Series("rejected", model): stats.rejected,
        Series("expired", model): stats.expired,
    }
    for size, n in stats.batch_sizes.items():
        counts[Series("batch_size", model, bucket=size)] = n
    _histogram(counts, Series("queue", model), stats.queue_seconds)
    _histogram(counts, Series("model", model), stats.model_seconds)
    return {series: n for series, n in counts.items() if n}


def _histogram(counts: Counts, series: Series, told: LatencyCounts) -> None:
    for bucket, n in told.buckets.items():
        counts[series._replace(bucket=bucket)] = n
    counts[series._replace(name=f"{series.name}_seconds")] = told.total


def gained(before: Mapping[Series, float], now: Mapping[Series, float]) -> Counts:
    """Return what was counted since; a count that fell began again at zero."""
    gain: Counts = {}
    for series, n in now.items():
        last = before.get(series, 0.0)
        if difference := (n - last if n >= last else n):
            gain[series] = difference
    return gain
