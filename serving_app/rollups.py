"""What was counted by minute, hour and day, over all processes: for the dashboard and the analysis.

What is read here is at most `FLUSH_SECONDS` old, and what was counted in the two seconds around the
end of a minute may stand in the one before.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import QuerySet, Sum
from django.utils import timezone

from serving_app.core.rollup_metrics import METRICS, Metric, value_of
from serving_app.core.rollups import STEPS, Series, Step
from serving_app.rollup_conf import rollup_settings
from serving_app.rollup_models import Rollup, RollupSeries

__all__ = [
    "BY",
    "METRICS",
    "Minutes",
    "Point",
    "Row",
    "Step",
    "series",
    "step_for",
    "totals",
    "values",
    "zone_of",
]

MOST_POINTS = 20_000
"""The most points of one series."""
BY = ("level", "model", "segment", "hour", "weekday", "day")
"""What totals may be told apart by; hour of the day and weekday (Monday is 0) are local."""
_TIMES: dict[str, Callable[[datetime], Any]] = {
    "hour": lambda at: at.hour,
    "weekday": lambda at: at.weekday(),
    "day": lambda at: at.date().isoformat(),
}
_SUMMED = (
    *("requests", "hits", "misses", "negative", "hit_rate", "failures", "error_rate", "stale"),
    *("degraded", "miss_seconds", "mean", "p50", "p90", "p99"),
)
"""The metrics of `totals`."""


@dataclass(frozen=True, slots=True)
class Point:
    """A metric over one minute, hour or day."""

    at: float
    """The start, in Unix seconds."""
    value: float | None
    """None: there is none, as of a hit rate without look-ups."""
    missing: bool
    """Whether no process told anything: then nobody knows."""


@dataclass(frozen=True, slots=True)
class Row:
    """Metrics over a period, of what has these labels."""

    labels: dict[str, str | int]
    """By the names in ``by``."""
    values: dict[str, float | None] = field(default_factory=dict)
    """By metric. A metric that cannot be told apart like this is left out."""


def step_for(since: float, until: float, *, now: float | None = None) -> Step:
    """Return the finest step that still is kept for a period and gives some hundred points."""
    kept, now = rollup_settings(), time.time() if now is None else now
    if until - since <= 6 * 3600 and now - since <= kept.minute_hours * 3600:
        return "minute"
    if until - since <= 21 * 86400 and now - since <= kept.hour_days * 86400:
        return "hour"
    return "day"


def series(
    metric: str,
    since: float,
    until: float,
    *,
    step: Step | None = None,
    model: str | None = None,
    segment: str | None = None,
    level: str | None = None,
) -> list[Point]:
    """Return a metric over time: one point for each minute, hour or day of a period.

    Args:
        metric: A name of `METRICS`.
        since: Unix seconds; the first point's step holds them.
        until: Unix seconds; no point begins at or after them.
        step: None: what suits the period.
        model: Of which model; None: of all.
        segment: Of which segment; None: of all.
        level: Of which level of the cache; None: of all. Of errors, the error.

    Raises:
        ValueError: There is no such metric or step, the period is none or too long, or the metric
            cannot be told apart by what is asked for.
    """
    wanted = _metric(metric, model=model, segment=segment, level=level)
    step = step or step_for(since, until)
    starts = _starts(since, until, step)
    rows = _rows(step, starts, {*wanted.names(), "told"}, model=model, segment=segment)
    told: dict[int, float] = {}
    found: defaultdict[int, list[tuple[Series, float]]] = defaultdict(list)
    sums = rows.values_list("at", "series__name", "series__level", "series__bucket")
    for at, name, of_level, bucket, n in sums.annotate(sum=Sum("value")):
        if name == "told":
            told[at] = n
        if name in wanted.names():
            found[at].append((Series(name, level=of_level, bucket=bucket), n))
    return [
        Point(
            at,
            None
            if at not in told
            else _per_minute(told[at], at, step)
            if metric == "processes"
            else value_of(wanted, found.get(at, ()), level=level),
            at not in told,
        )
        for at in starts
    ]


def values(
    metrics: Iterable[str],
    since: float,
    until: float,
    *,
    step: Step = "minute",
    model: str | None = None,
    segment: str | None = None,
    level: str | None = None,
) -> dict[str, float | None]:
    """Return metrics over a whole period; None: there is none, or nobody told.

    The period is widened to whole minutes, hours or days.

    Raises:
        ValueError: As of `series`.
    """
    wanted = {name: _metric(name, model=model, segment=segment, level=level) for name in metrics}
    starts = _starts(since, until, step, most=math.inf)
    names = {"told"}.union(*(metric.names() for metric in wanted.values()))
    rows = _rows(step, starts, names, model=model, segment=segment)
    sums = rows.values_list("series__name", "series__level", "series__bucket")
    counts = [
        (Series(name, level=of_level, bucket=bucket), n)
        for name, of_level, bucket, n in sums.annotate(sum=Sum("value"))
    ]
    told = sum(n for series, n in counts if series.name == "told")
    if told and "processes" in wanted:  # how many minutes, only this one asks
        told = rows.filter(series__name="told").values("at").distinct().count() * STEPS[step] / 60
    return _read(wanted, counts, told, level)


def _read(
    wanted: Mapping[str, Metric],
    counts: Sequence[tuple[Series, float]],
    minutes: float,
    level: str | None,
) -> dict[str, float | None]:
    """Return metrics of counts, if anything was told, in so many minutes."""
    result: dict[str, float | None] = {}
    for name, metric in wanted.items():
        value = value_of(metric, counts, level=level) if minutes else None
        if name == "processes" and value is not None:
            value /= minutes
        result[name] = value
    return result


class Minutes:
    """The minutes of a period, read once; gives what `values` would for any part of it.

    Args:
        metrics: Names of `METRICS`.
        since: Unix seconds.
        until: Unix seconds.
        model: Of which model; None: of all.
        segment: Of which segment; None: of all.
        level: Of which level; None: of all.

    Raises:
        ValueError: As of `series`.
    """

    def __init__(
        self,
        metrics: Iterable[str],
        since: float,
        until: float,
        *,
        model: str | None = None,
        segment: str | None = None,
        level: str | None = None,
    ) -> None:
        self._level = level
        self._wanted = {
            name: _metric(name, model=model, segment=segment, level=level) for name in metrics
        }
        names = {"told"}.union(*(metric.names() for metric in self._wanted.values()))
        starts = _starts(since, until, "minute")
        rows = _rows("minute", starts, names, model=model, segment=segment)
        sums = rows.values_list("at", "series__name", "series__level", "series__bucket")
        self._told: set[int] = set()
        self._counts: defaultdict[int, list[tuple[Series, float]]] = defaultdict(list)
        for at, name, of_level, bucket, n in sums.annotate(sum=Sum("value")):
            self._counts[at].append((Series(name, level=of_level, bucket=bucket), n))
            if name == "told":
                self._told.add(at)

    def values(self, since: float, until: float) -> dict[str, float | None]:
        """Return the metrics over a part of the period."""
        starts = _starts(since, until, "minute")
        counts = [each for at in starts for each in self._counts.get(at, ())]
        return _read(self._wanted, counts, sum(at in self._told for at in starts), self._level)


def totals(
    since: float,
    until: float,
    *,
    by: Sequence[str] = (),
    model: str | None = None,
    segment: str | None = None,
    level: str | None = None,
    zone: tzinfo | None = None,
    now: float | None = None,
) -> list[Row]:
    """Return requests, hits, misses and latencies over a period, told apart by ``by``.

    The period is widened to whole minutes, hours or days, whatever `step_for` says; hours of the
    day need hours.

    Args:
        since: Unix seconds.
        until: Unix seconds.
        by: Names of `BY`, which become the labels of the rows.
        model: Of which model; None: of all.
        segment: Of which segment; None: of all.
        level: Of which level; None: of all.
        zone: Where hours and days are as they are; None: the current time zone.
        now: Unix seconds; None: as the clock says.

    Raises:
        ValueError: ``by`` has a name that is none, or the period is none.
    """
    unknown = [name for name in by if name not in BY]
    if unknown:
        raise ValueError(
            f"There is no {unknown[0]!r} to tell apart by; there are: {', '.join(BY)}."
        )
    zone = zone or timezone.get_current_timezone()
    step = _step_of_totals(since, until, by, time.time() if now is None else now)
    starts = _starts(since, until, step, most=math.inf)
    apart = {*by} & {"level", "model", "segment"}
    apart |= {
        label for label, value in (("segment", segment), ("level", level)) if value is not None
    }
    wanted = [METRICS[name] for name in _SUMMED if apart <= METRICS[name].by]
    names = frozenset().union(*(metric.names() for metric in wanted))
    rows = _rows(step, starts, names, model=model, segment=segment)
    columns = [column for column in ("model", "segment") if column in by]
    by_time = [name for name in by if name in _TIMES]
    grouped = rows.values_list(
        *("series__name", "series__level", "series__bucket"),
        *(f"series__{column}" for column in columns),
        *(("at",) if by_time else ()),
    )
    groups: defaultdict[tuple[Any, ...], list[tuple[Series, float]]] = defaultdict(list)
    for name, of_level, bucket, *more, n in grouped.annotate(sum=Sum("value")):
        labels = dict(zip(columns, more, strict=False))
        if by_time:
            at = datetime.fromtimestamp(more[-1], zone)
            labels |= {name: _TIMES[name](at) for name in by_time}
        key = tuple(labels[column] for column in by if column != "level")
        groups[key].append((Series(name, level=of_level, bucket=bucket), n))
    return _totalled(groups, wanted, by, level)


def _totalled(
    groups: Mapping[tuple[Any, ...], list[tuple[Series, float]]],
    wanted: Sequence[Metric],
    by: Sequence[str],
    level: str | None,
) -> list[Row]:
    others = [name for name in by if name != "level"]
    result = []
    for key, counts in sorted(groups.items()):
        levels: Iterable[str | None] = [level]
        if "level" in by:
            there = {series.level for series, _ in counts if series.name == "lookups"}
            levels = sorted(there if level is None else there & {level})
        for each in levels:
            labels = dict(zip(others, key, strict=True))
            if "level" in by:
                labels["level"] = each
            row = {m.name: value_of(m, counts, level=each) for m in wanted}
            result.append(Row({name: labels[name] for name in by}, row))
    return result


# --- Reading ------------------------------------------------------------------------------------


def _metric(name: str, **labels: str | None) -> Metric:
    metric = METRICS.get(name)
    if metric is None:
        raise ValueError(f"There is no metric {name!r}; there are: {', '.join(sorted(METRICS))}.")
    for label, value in labels.items():
        if value is not None and label not in metric.by:
            by = ", ".join(sorted(metric.by)) or "nothing"
            raise ValueError(f"{name} is not known by {label}, but by {by}.")
    return metric


def _starts(since: float, until: float, step: str, *, most: float = MOST_POINTS) -> range:
    """Return the starts of a period's steps."""
    if step not in STEPS:
        raise ValueError(f"There is no step {step!r}; there are: {', '.join(STEPS)}.")
    if not (math.isfinite(since) and math.isfinite(until) and 0 <= since < until < 1e11):
        raise ValueError("A period begins before it ends.")
    seconds = STEPS[step]  # type: ignore[index]  # it was looked up
    starts = range(int(since // seconds) * seconds, math.ceil(until), seconds)
    if len(starts) > most:
        raise ValueError(f"That would be {len(starts)} points; {MOST_POINTS} are allowed.")
    return starts


def _rows(
    step: Step, starts: range, names: Iterable[str], *, model: str | None, segment: str | None
) -> QuerySet[Rollup]:
    """Return the sums of series, those of all models and segments but for these."""
    found = RollupSeries.objects.filter(name__in=names)
    told = RollupSeries.objects.filter(name="told")
    if model is not None:
        found = found.filter(model=model)
    if segment is not None:
        found = found.filter(segment=segment)
    return Rollup.objects.filter(
        step=STEPS[step],
        at__gte=starts.start,
        at__lt=starts.stop,
        series__in=found | (told if "told" in set(names) else told.none()),
    )


def _per_minute(told: float, at: int, step: Step) -> float:
    """Return how many processes told, on average over the minutes that have begun."""
    begun = math.ceil((min(time.time(), at + STEPS[step]) - at) / 60)
    return told / max(1, begun)


def _step_of_totals(since: float, until: float, by: Sequence[str], now: float) -> Step:
    step, kept = step_for(since, until, now=now), rollup_settings().hour_days
    if step != "day" or not {*_TIMES} & {*by}:
        return step
    if now - since <= kept * 86400:
        return "hour"
    if "hour" in by:
        raise ValueError(f"Hours are kept for {kept:g} days (HOUR_DAYS); begin later.")
    return step


def zone_of(name: str) -> tzinfo:
    """Return a time zone.

    Raises:
        ValueError: There is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"There is no time zone {name!r}.") from error
