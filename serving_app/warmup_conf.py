"""The settings of warming up: ``RECSERVE["WARM_UP"]``, read here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from django.core.exceptions import ImproperlyConfigured

from cache_app.conf_values import part

__all__ = ["WarmupSettings", "warmup_settings"]


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
    found = part("WARM_UP", WarmupSettings)
    if found.share > 1:
        raise ImproperlyConfigured(
            f'RECSERVE["WARM_UP"]["SHARE"] must be at most 1, not {found.share}.'
        )
    return found
