"""The settings of drift: ``RECSERVE["DRIFT"]``, read here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from cache_app.conf_values import mapping, part, text

__all__ = ["DriftSettings", "drift_settings"]


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """Settings of drift. Each field is a key of ``RECSERVE["DRIFT"]`` in upper case."""

    rule: str | None = "cosine"
    """The rule that decides whether preferences have changed, by its plugin's name; None: nothing
    is decided, but for segments with a rule of their own."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the rule."""
    terms: str | int = "title"
    """What a profile is made of: the words of titles, or this many first characters of item ids;
    0: whole ids."""
    half_life_days: float = 30.0
    """After how many days an event weighs half as much."""
    events: int = 500
    """How many of a user's latest events make its profile."""
    profiles: int = 1_000_000
    """How many profiles are kept; the oldest make room."""
    decisions: int = 10_000
    """How many decisions are kept; the oldest make room."""
    questions: int = 5
    """How many of a user's recent questions are computed anew when it is refreshed."""


def drift_settings() -> DriftSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is of the wrong form.
    """
    return part("DRIFT", DriftSettings, {"RULE": _rule, "OPTIONS": _options, "TERMS": _terms})


def _rule(value: Any, where: str) -> str | None:
    return None if value is None else text(value, where)


def _options(value: Any, where: str) -> Mapping[str, Any]:
    return dict(mapping(value, where))


def _terms(value: Any, where: str) -> str | int:
    length = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 64
    if value != "title" and not length:
        raise ImproperlyConfigured(
            f'{where} must be "title" or a number of characters up to 64, not {value!r}.'
        )
    return value  # type: ignore[no-any-return]  # it is one of them
