"""The settings of activity: ``RECSERVE["ACTIVITY"]``, read here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from cache_app.conf_values import part

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
    return part("ACTIVITY", ActivitySettings)
