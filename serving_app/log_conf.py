"""The settings of logging: ``RECSERVE["LOGGING"]``, read here and nowhere else."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

__all__ = ["LogSettings", "log_settings"]


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
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured('RECSERVE["LOGGING"] must be a dict.')
    try:  # each request asks; the types, as 1 equals True
        return _parsed(tuple((key, type(value), value) for key, value in given.items()))
    except TypeError:
        return _parsed.__wrapped__(tuple((key, type(v), v) for key, v in given.items()))


@functools.lru_cache(maxsize=16)
def _parsed(given: tuple[tuple[str, type, Any], ...]) -> LogSettings:
    keys = [f.name.upper() for f in fields(LogSettings)]
    values: dict[str, Any] = {}
    for key, _, value in given:
        if key not in keys:
            close = difflib.get_close_matches(str(key), keys, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ImproperlyConfigured(
                f'RECSERVE["LOGGING"] has no key {key!r}.{hint} Its keys: {", ".join(keys)}.'
            )
        part = key in {"ACCESS", "PAYLOADS"}
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (0 <= value <= 1 if part else value > 0):
            what = "a number from 0 to 1" if part else "a positive number"
            raise ImproperlyConfigured(
                f'RECSERVE["LOGGING"][{key!r}] must be {what}, not {value!r}.'
            )
        values[key.lower()] = int(value) if key == "PAYLOAD_ROWS" else float(value)
    return LogSettings(**values)
