"""The dashboard's longer periods, out of the sums by minute, hour and day."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db import DatabaseError
from django.http import HttpRequest, JsonResponse
from django.utils.translation import gettext as _

from recserve_project.dashboard import PERMISSION, refused
from serving_app.rollups import Point, series, step_for

__all__ = ["PERIODS", "dashboard_past"]

PERIODS = (60, 360, 1440, 10080)
"""What can be chosen, in minutes."""
_LEVELS = ("l1", "l2", "l3")
_SECONDS = {"minute": 60, "hour": 3600, "day": 86400}


def dashboard_past(request: HttpRequest) -> JsonResponse:
    """Return the points of one of `PERIODS`, in the form of those of `dashboard_data`."""
    if not (admin.site.has_permission(request) and request.user.has_perm(PERMISSION)):
        return refused()
    try:
        minutes = int(request.GET.get("minutes", ""))
    except ValueError:
        minutes = 0
    if minutes not in PERIODS:
        known = ", ".join(str(each) for each in PERIODS)
        detail = _("minutes must be one of %(known)s.") % {"known": known}
        return JsonResponse({"detail": detail}, status=400)
    try:
        points = _points(
            minutes,
            model=request.GET.get("model") or None,
            segment=request.GET.get("segment") or None,
        )
    except DatabaseError:
        return JsonResponse({"detail": _("The database does not answer.")}, status=503)
    return JsonResponse({"points": points}, headers={"Cache-Control": "no-store"})


def _points(minutes: int, *, model: str | None, segment: str | None) -> list[dict[str, Any]]:
    until = time.time()
    since = until - 60 * minutes
    step = step_for(since, until)

    def of(metric: str, *, level: str | None = None, whole: bool = False) -> Sequence[Point]:
        """Return a metric over the period; of a segment, none where only the whole is counted."""
        if whole and segment is not None:
            return ()
        chosen = None if whole else segment
        return series(metric, since, until, step=step, model=model, segment=chosen, level=level)

    asked = of("requests", whole=True) or of("lookups")
    columns = {
        "hit_rate": of("hit_rate"),
        "errors": of("errors", whole=True),
        "rejected": of("rejected", whole=True),
        "queued": of("queue_length", whole=True),
        **{q: of(q) for q in ("p50", "p90", "p99")},
        **{level: of("hit_rate", level=level) for level in _LEVELS},
    }

    def value(name: str, i: int) -> float | None:
        column = columns[name]
        return column[i].value if column else None

    points: list[dict[str, Any]] = []
    for i, point in enumerate(asked):
        seconds = min(_SECONDS[step], max(1.0, until - point.at))
        quantiles = {q: value(q, i) for q in ("p50", "p90", "p99")}
        points.append(
            {
                "at": point.at,
                "seconds": seconds,
                "empty": point.missing,
                "silent": [],
                "rate": (point.value or 0.0) / seconds,
                **{name: value(name, i) for name in ("hit_rate", "errors", "rejected", "queued")},
                "levels": {level: share for level in _LEVELS if (share := value(level, i))},
                "latency_ms": {
                    q: None if each is None else each * 1000 for q, each in quantiles.items()
                },
            }
        )
    return points
