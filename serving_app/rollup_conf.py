"""The settings of rollups: ``RECSERVE["ROLLUPS"]``, read here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from cache_app.conf_values import part

__all__ = ["RollupSettings", "rollup_settings"]


@dataclass(frozen=True, slots=True)
class RollupSettings:
    """Settings of rollups. Each field is a key of ``RECSERVE["ROLLUPS"]`` in upper case."""

    record: bool = True
    """Whether counts are rolled up; alerts and the analysis need it."""
    flush_seconds: float = 10.0
    """How often a process adds what it counted to the database."""
    minute_hours: float = 24.0
    """For how many hours minutes are kept."""
    hour_days: float = 60.0
    """For how many days hours are kept."""
    day_days: float = 800.0
    """For how many days days are kept."""
    rows: int = 2_000_000
    """How many sums at most; the oldest minutes make room, then the oldest hours."""
    series: int = 20_000
    """How many series at most: what comes after them is not rolled up."""


def rollup_settings() -> RollupSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is of the wrong form.
    """
    return part("ROLLUPS", RollupSettings)
