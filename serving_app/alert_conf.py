"""The settings of alerts: ``RECSERVE["ALERTS"]``, read here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from cache_app.conf_values import part

__all__ = ["AlertSettings", "alert_settings"]


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """Settings of alerts. Each field is a key of ``RECSERVE["ALERTS"]`` in upper case."""

    evaluate: bool = True
    """Whether serving processes evaluate rules; else only ``manage.py alerts`` does."""
    tick_seconds: float = 10.0
    """How often rules are evaluated, and notices sent, by one process of all."""
    keep_days: float = 90.0
    """For how many days resolved alerts and sent notices are kept."""
    give_up_hours: float = 24.0
    """For how long a notice is tried that a channel does not take."""
    webhook_hosts: tuple[str, ...] = ()
    """Hosts that channels may call; none: every one."""
    most_notices: int = 100
    """The most notices sent in one tick."""


def alert_settings() -> AlertSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is of the wrong form.
    """
    return part("ALERTS", AlertSettings, {"WEBHOOK_HOSTS": _hosts})


def _hosts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise ImproperlyConfigured(f"{where} must be a list of host names, not {value!r}.")
    return tuple(host.lower() for host in value)
