"""The settings of logging: ``RECSERVE["LOGGING"]``, read here and nowhere else."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings

from cache_app.conf_values import at_most, mapping, positive, section

__all__ = ["LogSettings", "log_settings"]

_WHERE = 'RECSERVE["LOGGING"]'


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Settings of logging. Each field is a key of ``RECSERVE["LOGGING"]`` in upper case."""

    access: float = 1.0
    """Which part of the requests that succeed get a line in the access log; the others all do."""
    payloads: float = 0.0
    """Which part of the predict requests is kept with its answer, to be replayed."""
    payload_days: float = 7.0
    """For how many days."""
    payload_rows: int = 100_000
    """How many at most."""


def log_settings() -> LogSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is of the wrong form.
    """
    given = getattr(settings, "RECSERVE", {}).get("LOGGING", {})
    mapping(given, _WHERE)
    try:  # each request asks; the types, as 1 equals True
        return _parsed(tuple((key, type(value), value) for key, value in given.items()))
    except TypeError:
        return _parsed.__wrapped__(tuple((key, type(v), v) for key, v in given.items()))


@functools.lru_cache(maxsize=16)
def _parsed(given: tuple[tuple[str, type, Any], ...]) -> LogSettings:
    keys = [f.name.upper() for f in fields(LogSettings)]
    values: dict[str, Any] = {}
    for key, value in section({key: v for key, _, v in given}, _WHERE, keys).items():
        where = f"{_WHERE}[{key!r}]"
        part = key in {"ACCESS", "PAYLOADS"}
        number = at_most(value, 1, where) if part else positive(value, where)
        values[key.lower()] = int(number) if key == "PAYLOAD_ROWS" else number
    return LogSettings(**values)
