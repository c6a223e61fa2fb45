"""The settings of alerts: ``RECSERVE["ALERTS"]``, read here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from cache_app.conf_values import count, positive, section, switch

__all__ = ["AlertSettings", "alert_settings"]

_WHERE = 'RECSERVE["ALERTS"]'
_MOST = 10**9


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
    types = {f.name.upper(): type(f.default) for f in fields(AlertSettings)}
    given = section(getattr(settings, "RECSERVE", {}).get("ALERTS", {}), _WHERE, types)
    checked = {
        key: _checked(value, f"{_WHERE}[{key!r}]", types[key]) for key, value in given.items()
    }
    return AlertSettings(**{key.lower(): value for key, value in checked.items()})


def _checked(value: Any, where: str, type_: type) -> Any:
    if type_ is bool:
        return switch(value, where)
    if type_ is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise ImproperlyConfigured(f"{where} must be a list of host names, not {value!r}.")
        return tuple(host.lower() for host in value)
    number = count(value, where) if type_ is int else positive(value, where)
    if number > _MOST:
        raise ImproperlyConfigured(f"{where} must be at most {_MOST}, not {value!r}.")
    return number
