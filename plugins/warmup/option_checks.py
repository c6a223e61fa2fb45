"""Whether the values of a strategy's options make sense."""

from __future__ import annotations

import math

from plugins.errors import InvalidOptions

__all__ = ["DAY", "HOUR", "MINUTE", "at_least", "positive"]

MINUTE = 60.0
HOUR = 3600.0
DAY = 86_400.0
"""Seconds."""
_LONGEST = 3660.0


def positive(name: str, value: float) -> float:
    """Return an option's value, a span of time, if it is one.

    Raises:
        InvalidOptions: It is not more than 0, or so much that it must be a mistake.
    """
    if not math.isfinite(value) or not 0 < value <= _LONGEST:
        raise InvalidOptions(
            f"The option {name!r} must be more than 0 and at most {_LONGEST:g}, not {value!r}."
        )
    return value


def at_least(name: str, value: float, least: float) -> float:
    """Return an option's value if it is not less than allowed.

    Raises:
        InvalidOptions: It is less.
    """
    if not math.isfinite(value) or value < least:
        raise InvalidOptions(f"The option {name!r} must be at least {least:g}, not {value!r}.")
    return value
