"""What stands beside the dashboard's figures: alerts that are on, and what warm-ups earned."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from serving_app.alert_models import Alert
from serving_app.warmup_models import WarmupRun

__all__ = ["alerts", "warm_ups"]

SHOWN = 10


def alerts() -> list[dict[str, Any]]:
    """Return the alerts that fire or are pending, those that began last first."""
    states = (Alert.State.FIRING, Alert.State.PENDING)
    rows = Alert.objects.filter(state__in=states).select_related("rule").order_by("-started")
    return [
        {
            "rule": row.rule.name,
            "state": row.state,
            "label": row.get_state_display(),
            "severity": row.get_severity_display(),
            "since": row.started.timestamp(),
            "value": row.value,
            "url": reverse("admin:serving_app_alert_change", args=(row.pk,)),
        }
        for row in rows[:SHOWN]
    ]


def warm_ups() -> list[dict[str, Any]]:
    """Return the last runs: what each warmed, and the hits that it has earned so far."""
    rows = WarmupRun.objects.select_related("schedule").order_by("-requested")[:SHOWN]
    return [
        {
            "name": row.schedule.name if row.schedule else row.model,
            "model": row.model,
            "label": row.get_state_display(),
            "at": (row.started or row.requested).timestamp(),
            "warmed": row.warmed,
            "earned": row.earned,
            "spent": round(row.model_seconds, 3),
            "saved": round(row.seconds_saved, 3),
            "url": reverse("admin:serving_app_warmuprun_change", args=(row.pk,)),
        }
        for row in rows
    ]
