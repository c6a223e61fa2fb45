"""``GET /analysis``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from plugins import InvalidInput
from serving_app import rollups
from serving_app.analysis import Analysis, analyse, parse_time
from serving_app.api.authentication import access_of
from serving_app.api.permissions import CanOperate
from serving_app.rollups import Point, Row

__all__ = ["AnalysisView"]

_TEXTS = ("from", "to", "by", "model", "segment", "level", "zone", "format")
_SECONDS = frozenset({"miss_seconds"})
_LATENCIES = frozenset({"mean", "p50", "p90", "p99"})


class AnalysisView(APIView):
    """Where the cache works, and where not."""

    permission_classes = (CanOperate,)

    @extend_schema(
        parameters=[
            OpenApiParameter("from", str, description="A time, or how long ago: 24h (default)."),
            OpenApiParameter("to", str, description="A time, or now (default)."),
            OpenApiParameter("by", str, description=f"Some of {', '.join(rollups.BY)}."),
            OpenApiParameter("model", str, description="Only this model's."),
            OpenApiParameter("segment", str, description="Only this segment's."),
            OpenApiParameter("level", str, description="Only this level's rows."),
            OpenApiParameter("zone", str, description="Time zone of hours and days."),
        ],
        responses={200: OpenApiTypes.OBJECT},
    )
    def get(self, request: Request) -> Response:
        """Return hit rates and latencies by segment, model, level and time, and what they say."""
        query = request.query_params
        for name in query:
            if name not in _TEXTS:
                raise InvalidInput(
                    f"Unknown parameter {name[:50]!r}; use {', '.join(_TEXTS[:-1])}.",
                    field=name[:50],
                )
        model = query.get("model") or None
        if model is None:
            access_of(request).check_every_model("operate")
        else:
            access_of(request).check_model(model, "operate")
        zone = timezone.get_current_timezone()
        if query.get("zone"):
            zone = _checked("zone", rollups.zone_of, query["zone"])
        since = _checked("from", parse_time, query.get("from") or "24h", zone)
        until = _checked("to", parse_time, query.get("to") or "now", zone)
        if since >= until:
            raise InvalidInput("The period begins after it ends.", field="from")
        by = [name.strip() for name in query.get("by", "").split(",") if name.strip()]
        labels = {name: query.get(name) or None for name in ("segment", "level")}
        found = _checked("by", analyse, since, until, by=by, model=model, zone=zone, **labels)
        return Response(_body(found))


def _checked(field: str, call: Any, *given: Any, **more: Any) -> Any:
    """Return what a call returns.

    Raises:
        InvalidInput: It does not take what was given.
    """
    try:
        return call(*given, **more)
    except ValueError as error:
        raise InvalidInput(str(error), field=field) from error


def _body(found: Analysis) -> dict[str, Any]:
    return {
        "from": _time(found.since),
        "to": _time(found.until),
        "by": list(found.by),
        "total": _values(found.total.values),
        "rows": [{**row.labels, **_values(row.values)} for row in found.rows],
        "step": found.step,
        "trend": {_named(name): _points(name, points) for name, points in found.trend.items()},
        "heat": [_heat(row) for row in found.heat],
        "findings": [dataclasses.asdict(finding) for finding in found.findings],
    }


def _heat(row: Row) -> dict[str, Any]:
    return {
        **row.labels,
        **{name: row.values[name] for name in ("hit_rate", "hits", "misses", "miss_seconds")},
    }


def _points(name: str, points: Sequence[Point]) -> list[dict[str, Any]]:
    return [
        {"at": _time(point.at), "value": _value(name, point.value), "missing": point.missing}
        for point in points
    ]


def _values(values: dict[str, float | None]) -> dict[str, Any]:
    return {_named(name): _value(name, value) for name, value in values.items()}


def _named(name: str) -> str:
    return f"{name}_ms" if name in _LATENCIES else name


def _value(name: str, value: float | None) -> float | int | None:
    if value is None or not math.isfinite(value):
        return None
    if name in _LATENCIES:
        return round(value * 1000, 3)
    if name in _SECONDS or name.endswith("_rate"):
        return round(value, 6)
    return int(value) if value.is_integer() else value


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
