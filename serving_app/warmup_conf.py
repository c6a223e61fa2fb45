"""The settings of warming up: ``RECSERVE["WARM_UP"]``, read here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from cache_app.conf_values import count, positive, section, switch

__all__ = ["WarmupSettings", "warmup_settings"]

_WHERE = 'RECSERVE["WARM_UP"]'
_MOST = 10**9


@dataclass(frozen=True, slots=True)
class WarmupSettings:
    """Settings of warming up. Each field is a key of ``RECSERVE["WARM_UP"]`` in upper case."""

    scheduler: bool = True
    """Whether the processes of ``manage.py serve`` run what is due; else ``run_warmups`` does."""
    poll_seconds: float = 1.0
    """How often a process looks for what is due."""
    dead_seconds: float = 30.0
    """After how long without a sign of life the run of a process is another's."""
    share: float = 0.1
    """The part of the time, at most, in which a run lets the model compute."""
    run_seconds: float = 3600.0
    """How long a run may take."""
    max_budget: int = 100_000
    """The most questions that one run may warm."""
    runs: int = 1000
    """How many ended runs are kept; the oldest make room."""
    questions: int = 200_000
    """How many warmed questions are remembered, to count whether they were asked."""


def warmup_settings() -> WarmupSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is of the wrong form.
    """
    types = {f.name.upper(): type(f.default) for f in fields(WarmupSettings)}
    given = section(getattr(settings, "RECSERVE", {}).get("WARM_UP", {}), _WHERE, types)
    checked = {
        key: _checked(value, f"{_WHERE}[{key!r}]", types[key]) for key, value in given.items()
    }
    if checked.get("SHARE", 1.0) > 1:
        raise ImproperlyConfigured(f"{_WHERE}['SHARE'] must be at most 1, not {checked['SHARE']}.")
    return WarmupSettings(**{key.lower(): value for key, value in checked.items()})


def _checked(value: Any, where: str, type_: type) -> Any:
    if type_ is bool:
        return switch(value, where)
    number = count(value, where) if type_ is int else positive(value, where)
    if number > _MOST:
        raise ImproperlyConfigured(f"{where} must be at most {_MOST}, not {value!r}.")
    return number
