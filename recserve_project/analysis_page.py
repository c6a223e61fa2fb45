"""The admin's page of the analysis: when and for whom the cache does not work."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any

from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.dates import WEEKDAYS_ABBR
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from serving_app.analysis import Analysis, analyse, parse_time
from serving_app.models import ServedModel
from serving_app.rollups import Point, Row

PERMISSION = "serving_app.operate"
"""Who may see the page: staff with this permission; a superuser has every one."""
PERIODS = {
    "1h": gettext_lazy("the last hour"),
    "24h": gettext_lazy("the last 24 hours"),
    "7d": gettext_lazy("the last 7 days"),
    "30d": gettext_lazy("the last 30 days"),
    "365d": gettext_lazy("the last year"),
}
BY = {
    "segment": gettext_lazy("segment"),
    "model": gettext_lazy("model"),
    "level": gettext_lazy("level"),
    "segment,hour": gettext_lazy("segment and hour of the day"),
    "model,segment": gettext_lazy("model and segment"),
    "hour": gettext_lazy("hour of the day"),
    "day": gettext_lazy("day"),
}
CHART_OPTIONS = json.dumps(
    {
        "animation": False,
        "responsive": True,
        "maintainAspectRatio": False,
        "elements": {"point": {"radius": 1.5}, "line": {"borderWidth": 2}},
        "interaction": {"mode": "index", "intersect": False},
        "plugins": {"legend": {"align": "end", "labels": {"boxHeight": 1}}},
        "scales": {
            "x": {"grid": {"display": False}, "ticks": {"maxTicksLimit": 12, "maxRotation": 0}},
            "y": {"grid": {"display": True}, "beginAtZero": True, "ticks": {"maxTicksLimit": 6}},
        },
    }
)
SHOWN = 200
"""Rows of the table."""


def analysis_page(request: HttpRequest, admin_site: AdminSite) -> HttpResponse:
    """Return the page.

    Raises:
        PermissionDenied: The user is no staff, or may not operate.
    """
    if not (admin_site.has_permission(request) and request.user.has_perm(PERMISSION)):
        raise PermissionDenied
    chosen = {
        "period": _one_of(request.GET.get("period"), PERIODS, "24h"),
        "by": _one_of(request.GET.get("by"), BY, "segment"),
        "model": request.GET.get("model", ""),
    }
    models = [*ServedModel.objects.order_by("name").values_list("name", flat=True)]
    if chosen["model"] not in models:
        chosen["model"] = ""
    zone, now = timezone.get_current_timezone(), time.time()
    found = analyse(
        parse_time(chosen["period"], zone, now=now),
        now,
        by=chosen["by"].split(","),
        model=chosen["model"] or None,
        zone=zone,
        now=now,
    )
    context = {
        **admin_site.each_context(request),
        "title": _("Analysis"),
        "chosen": chosen,
        "periods": PERIODS,
        "ways": BY,
        "models": models,
        "found": found,
        "total": _shown(found.total),
        "columns": [BY.get(name, name) for name in found.by],
        "rows": [
            ([_label(name, row) for name in found.by], _shown(row)) for row in found.rows[:SHOWN]
        ],
        "left_out": max(0, len(found.rows) - SHOWN),
        "heat": _heat(found),
        "hours": range(24),
        "chart_options": CHART_OPTIONS,
        "rate_chart": _chart(found, zone, {"hit_rate": _("hit rate, %")}, scale=100),
        "count_chart": _chart(found, zone, {"lookups": _("look-ups"), "misses": _("misses")}),
    }
    return render(request, "admin/analysis.html", context)


def _one_of(given: str | None, choices: Mapping[str, Any], default: str) -> str:
    return given if given is not None and given in choices else default


def _label(name: str, row: Row) -> str:
    value = row.labels[name]
    return f"{value}:00" if name == "hour" else str(value)


def _shown(row: Row) -> dict[str, Any]:
    """Return what the table shows of a row: rates in percent, times in milliseconds."""
    values = row.values

    def scaled(name: str, by: float) -> float | None:
        value = values.get(name)
        return None if value is None else value * by

    return {
        "hits": values.get("hits"),
        "misses": values.get("misses"),
        "hit_rate": scaled("hit_rate", 100),
        "miss_seconds": values.get("miss_seconds"),
        "p50": scaled("p50", 1000),
        "p99": scaled("p99", 1000),
    }


def _heat(found: Analysis) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Return hit rates by weekday and hour; None where nothing was asked."""
    cells = {
        (int(row.labels["weekday"]), int(row.labels["hour"])): row.values for row in found.heat
    }
    table = []
    for weekday, name in WEEKDAYS_ABBR.items():
        row: list[dict[str, Any] | None] = []
        for hour in range(24):
            values = cells.get((weekday, hour))
            rate = None if values is None else values["hit_rate"]
            if values is None or rate is None:
                row.append(None)
            else:
                row.append(
                    {
                        "rate": 100 * rate,
                        "misses": values["misses"],
                        "shade": round(0.6 * (1 - rate), 2),
                    }
                )
        table.append((str(name), row))
    return table


def _chart(found: Analysis, zone: tzinfo, names: Mapping[str, str], scale: float = 1) -> str:
    """Return what Chart.js draws; a gap where nobody told anything."""
    clock = {"minute": "%H:%M", "hour": "%d %b %H:%M", "day": "%d %b %Y"}[found.step]
    points: Sequence[Point] = found.trend[next(iter(names))]
    colours = ("var(--color-primary-600)", "var(--color-base-400)")
    return json.dumps(
        {
            "labels": [f"{datetime.fromtimestamp(point.at, zone):{clock}}" for point in points],
            "datasets": [
                {
                    "label": label,
                    "borderColor": colour,
                    "data": [
                        None if point.value is None else round(scale * point.value, 3)
                        for point in found.trend[name]
                    ],
                }
                for (name, label), colour in zip(names.items(), colours, strict=False)
            ],
        }
    )
