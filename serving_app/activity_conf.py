"""The settings of activity: ``RECSERVE["ACTIVITY"]``, read here and nowhere else."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

__all__ = ["ActivitySettings", "activity_settings"]


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
    given = getattr(settings, "RECSERVE", {}).get("ACTIVITY", {})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured('RECSERVE["ACTIVITY"] must be a dict.')
    types: dict[str, type] = {f.name.upper(): type(f.default) for f in fields(ActivitySettings)}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in types:
            close = difflib.get_close_matches(str(key), types, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ImproperlyConfigured(
                f'RECSERVE["ACTIVITY"] has no key {key!r}.{hint} Its keys: {", ".join(types)}.'
            )
        values[key.lower()] = _checked(key, value, types[key])
    return ActivitySettings(**values)


def _checked(key: str, value: Any, type_: type) -> Any:
    where = f'RECSERVE["ACTIVITY"][{key!r}]'
    if type_ is bool:
        if not isinstance(value, bool):
            raise ImproperlyConfigured(f"{where} must be True or False, not {value!r}.")
        return value
    wanted = (int,) if type_ is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or not 0 < value <= 10**9:
        kind = "a positive whole number" if type_ is int else "a positive number"
        raise ImproperlyConfigured(f"{where} must be {kind} up to 1e9, not {value!r}.")
    return type_(value)
