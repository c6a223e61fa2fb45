"""Hit rates by segment, model and time, and what they say: for the API, the admin and a command."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from django.db.models import Count, QuerySet, Sum
from django.db.models.functions import TruncDay
from django.utils import timezone

from cache_app.core.generations import EVERYTHING, scope
from cache_app.models import Invalidation
from serving_app import rollups
from serving_app.activity_models import ActivityCount
from serving_app.core.activity import REQUEST
from serving_app.core.findings import Cell, Evidence, Finding, LevelCounts, findings
from serving_app.rollups import Point, Row

__all__ = ["Analysis", "analyse", "parse_time"]

TREND = ("hit_rate", "lookups", "misses", "p99")
"""The metrics whose course is shown."""
_QUESTIONS = 200_000
"""With more rows of activity in the period, questions are not counted: that would take long."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was found in a period."""

    since: float
    until: float
    by: tuple[str, ...]
    step: str
    """Of the trend: minute, hour or day."""
    total: Row
    rows: Sequence[Row]
    """Told apart by ``by``."""
    trend: Mapping[str, Sequence[Point]]
    """Points by metric."""
    heat: Sequence[Row]
    """By weekday and hour of the day; empty where hours are not kept."""
    findings: Sequence[Finding]


def analyse(
    since: float,
    until: float,
    *,
    by: Sequence[str] = (),
    model: str | None = None,
    segment: str | None = None,
    level: str | None = None,
    zone: tzinfo | None = None,
    now: float | None = None,
) -> Analysis:
    """Return what was counted in a period, told apart by ``by``, and what it says.

    Args:
        since: Unix seconds.
        until: Unix seconds.
        by: Names of `rollups.BY`.
        model: Of which model; None: of all.
        segment: Of which segment; None: of all.
        level: Of which level the rows are; None: of all.
        zone: Where hours of the day are as they are; None: the current time zone.
        now: Unix seconds; None: as the clock says.

    Raises:
        ValueError: A name or the period is wrong.
    """
    now = time.time() if now is None else now
    zone = zone or timezone.get_current_timezone()
    labels: dict[str, Any] = {"model": model, "segment": segment}
    rows = rollups.totals(since, until, by=by, level=level, zone=zone, now=now, **labels)
    whole = rollups.totals(since, until, zone=zone, now=now, **labels)
    step = rollups.step_for(since, until, now=now)
    trend = {metric: rollups.series(metric, since, until, step=step, **labels) for metric in TREND}
    try:
        heat = rollups.totals(since, until, by=("weekday", "hour"), zone=zone, now=now, **labels)
    except ValueError:  # hours are not kept for so long
        heat = []
    total = whole[0] if whole else Row({}, {})
    evidence = _evidence(since, until, total, bool(heat), zone=zone, now=now, **labels)
    return Analysis(since, until, (*by,), step, total, rows, trend, heat, findings(evidence))


def _evidence(
    since: float,
    until: float,
    total: Row,
    hours: bool,
    *,
    model: str | None,
    segment: str | None,
    zone: tzinfo,
    now: float,
) -> Evidence:
    given = total.values
    by = ("segment", "hour") if hours else ("segment",)
    asked: dict[str, Any] = {"model": model, "segment": segment, "zone": zone, "now": now}
    cells = [_cell(row, "segment") for row in rollups.totals(since, until, by=by, **asked)]
    models = [_cell(row, "model") for row in rollups.totals(since, until, by=("model",), **asked)]
    told = rollups.series("processes", since, min(until, now), step="hour") if hours else []
    first = next((i for i, point in enumerate(told) if not point.missing), len(told))
    told = told[first:]  # before, there was no server
    hits, misses = given.get("hits") or 0.0, given.get("misses") or 0.0
    return Evidence(
        lookups=hits + misses,
        misses=misses,
        miss_seconds=given.get("miss_seconds") or 0.0,
        answers=(given.get("requests") or 0.0),
        stale=given.get("stale") or 0.0,
        cells=cells,
        models=models,
        levels={} if model or segment else _levels(since, until, now),
        hours=len(told),
        missing_hours=sum(point.missing for point in told),
        invalidations=_invalidations(since, until, model),
        **_questions(since, until, model),
    )


def _cell(row: Row, name: str) -> Cell:
    values = row.values
    hits, misses = values.get("hits") or 0.0, values.get("misses") or 0.0
    hour = row.labels.get("hour")
    return Cell(
        str(row.labels[name]),
        hits + misses,
        misses,
        values.get("miss_seconds") or 0.0,
        None if hour is None else int(hour),
    )


def _levels(since: float, until: float, now: float) -> dict[str, LevelCounts]:
    names = ("level_insertions", "level_evictions", "level_expirations", "level_up")
    step, found = rollups.step_for(since, until, now=now), {}
    for level in ("l1", "l2", "l3"):
        counts = rollups.values(names, since, until, step=step, level=level)
        stored, evicted, expired, up = (counts[name] for name in names)
        if up is not None:
            found[level] = LevelCounts(stored or 0.0, evicted or 0.0, expired or 0.0, up)
    return found


def _invalidations(since: float, until: float, model: str | None) -> Mapping[str, int]:
    """Return how many different scopes were invalidated, by what they cover."""
    rows = Invalidation.objects.filter(at__gte=_moment(since), at__lt=_moment(until))
    models = (
        rows.filter(scope__startswith="m:")
        if model is None
        else rows.filter(scope=scope(model_name=model))
    )
    return {"all": rows.filter(scope=EVERYTHING).count(), "model": models.count()}


def _questions(since: float, until: float, model: str | None) -> dict[str, Any]:
    """Return what activity says of the questions that were asked."""
    rows = ActivityCount.objects.filter(
        kind=REQUEST, hour__gte=_moment(since // 3600 * 3600), hour__lt=_moment(until)
    )
    if model is not None:
        rows = rows.filter(model=model)
    there = rows.count()
    if not 0 < there <= _QUESTIONS:
        return {}
    alike = ("model", "alias", "user", "user_is_number", "context", "own_features")
    shared = rows.filter(own_features=False)  # whoever sent features may have asked anything
    asked = shared.values(*alike)
    each: QuerySet[Any, Any] = asked.annotate(
        times=Sum("count"), days=Count(TruncDay("hour", tzinfo=UTC), distinct=True)
    )
    sums = each.aggregate(questions=Count("user"), days_of_all=Sum("days"))
    whole = rows.aggregate(all=Sum("count"))["all"] or 1
    own = rows.filter(own_features=True).aggregate(all=Sum("count"))["all"] or 0
    return {
        "question_days": sums["days_of_all"] or 0,
        "questions": sums["questions"] or 0,
        "once": each.filter(times=1).count(),
        "own_features": own / whole,
    }


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def parse_time(text: str, zone: tzinfo, *, now: float | None = None) -> float:
    """Return the Unix seconds of a date, a time, ``now``, or a time ago: ``24h``, ``7d``, ``30m``.

    Raises:
        ValueError: It is none.
    """
    now = time.time() if now is None else now
    text = text.strip()
    if text == "now":
        return now
    unit = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}.get(text[-1:])
    if unit and text[:-1].isascii() and text[:-1].isdecimal() and len(text) < 8:
        return now - int(text[:-1]) * unit
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(
            f"{text[:50]!r} is no time: write 2026-11-24, 2026-11-24T09:30Z, 24h (ago) or now."
        ) from error
