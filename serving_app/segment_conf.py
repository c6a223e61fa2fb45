"""The settings of segments: ``RECSERVE["SEGMENTS"]``, read here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from cache_app.conf_values import count, positive, section, switch

__all__ = ["SegmentSettings", "segment_settings"]

_WHERE = 'RECSERVE["SEGMENTS"]'
_MOST = 10**9


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """Settings of segments. Each field is a key of ``RECSERVE["SEGMENTS"]`` in upper case."""

    evaluate: bool = True
    """Whether serving processes evaluate the rules; one of all does at a time."""
    evaluate_seconds: float = 5.0
    """How often it looks for users whose segment may have changed."""
    users: int = 1_000_000
    """How many users are remembered; those who have been away longest make room."""


def segment_settings() -> SegmentSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is of the wrong form.
    """
    types = {f.name.upper(): type(f.default) for f in fields(SegmentSettings)}
    given = section(getattr(settings, "RECSERVE", {}).get("SEGMENTS", {}), _WHERE, types)
    checked = {
        key: _checked(value, f"{_WHERE}[{key!r}]", types[key]) for key, value in given.items()
    }
    return SegmentSettings(**{key.lower(): value for key, value in checked.items()})


def _checked(value: Any, where: str, type_: type) -> Any:
    if type_ is bool:
        return switch(value, where)
    number = count(value, where) if type_ is int else positive(value, where)
    if number > _MOST:
        raise ImproperlyConfigured(f"{where} must be at most {_MOST}, not {value!r}.")
    return number
