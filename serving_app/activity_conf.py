"""The settings of activity: ``RECSERVE["ACTIVITY"]``, read here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from cache_app.conf_values import count, positive, section, switch

__all__ = ["ActivitySettings", "activity_settings"]

_WHERE = 'RECSERVE["ACTIVITY"]'
_MOST = 10**9


@dataclass(frozen=True, slots=True)
class ActivitySettings:
    """Settings of activity. Each field is a key of ``RECSERVE["ACTIVITY"]`` in upper case."""

    record: bool = True
    """Whether requests are counted; events are taken all the same."""
    days: float = 30.0
    """For how many days counts are kept."""
    rows: int = 1_000_000
    """How many counts at most; the oldest make room."""
    event_days: float = 90.0
    """For how many days events are kept."""
    event_rows: int = 1_000_000
    """How many events at most; the oldest make room."""
    flush_seconds: float = 5.0
    """How often a process adds what it counted to the database."""
    waiting: int = 20_000
    """How many requests may wait in a process to be counted."""
    counted: int = 50_000
    """How many different questions a process counts between two writes."""
    max_context_bytes: int = 1024
    """Requests with a larger context, as JSON, are not counted."""
    max_events: int = 1000
    """The most events in one call of ``/events``."""


def activity_settings() -> ActivitySettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is of the wrong form.
    """
    types = {f.name.upper(): type(f.default) for f in fields(ActivitySettings)}
    given = section(getattr(settings, "RECSERVE", {}).get("ACTIVITY", {}), _WHERE, types)
    checked = {
        key: _checked(value, f"{_WHERE}[{key!r}]", types[key]) for key, value in given.items()
    }
    return ActivitySettings(**{key.lower(): value for key, value in checked.items()})


def _checked(value: Any, where: str, type_: type) -> Any:
    if type_ is bool:
        return switch(value, where)
    number = count(value, where) if type_ is int else positive(value, where)
    if number > _MOST:
        raise ImproperlyConfigured(f"{where} must be at most {_MOST}, not {value!r}.")
    return number
