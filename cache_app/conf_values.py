"""Checks of single values of settings: each returns the value, or says what it must be.

Each takes the value, and where it stands in the settings, for the message of its
`ImproperlyConfigured`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from plugins.options import did_you_mean

__all__ = [
    "at_most",
    "count",
    "file_path",
    "mapping",
    "namespace",
    "one_of",
    "positive",
    "section",
    "switch",
    "text",
]


def section(given: Any, where: str, keys: Iterable[str]) -> Mapping[str, Any]:
    """Return a dict whose keys are all known."""
    for key in mapping(given, where):
        if key not in keys:
            raise ImproperlyConfigured(
                f"{where} has no key {key!r}.{did_you_mean(key, keys)} Its keys: {', '.join(keys)}."
            )
    return given  # type: ignore[no-any-return]  # it is a mapping


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Return a dict."""
    if not isinstance(value, Mapping):
        raise ImproperlyConfigured(f"{where} must be a dict, not {value!r}.")
    return value


def file_path(value: Any, where: str) -> Path:
    """Return a path."""
    if not isinstance(value, str | Path) or not str(value):
        raise ImproperlyConfigured(f"{where} must be a path, not {value!r}.")
    return Path(value)


def switch(value: Any, where: str) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise ImproperlyConfigured(f"{where} must be True or False, not {value!r}.")
    return value


def text(value: Any, where: str) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ImproperlyConfigured(f"{where} must be a text that is not empty, not {value!r}.")
    return value


def namespace(value: Any, where: str) -> str:
    """Return a text of at most 200 characters."""
    if len(text(value, where)) > 200:
        raise ImproperlyConfigured(f"{where} must have 200 characters at most.")
    return str(value)


def one_of(value: Any, choices: Sequence[str], where: str) -> str:
    """Return one of the choices."""
    if value not in choices:
        words = " or ".join(f'"{choice}"' for choice in choices)
        raise ImproperlyConfigured(f"{where} must be {words}, not {value!r}.")
    return str(value)


def positive(value: Any, where: str) -> float:
    """Return a number above 0, and finite."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ImproperlyConfigured(f"{where} must be a positive number, not {value!r}.")
    return float(value)


def at_most(value: Any, most: float, where: str) -> float:
    """Return a number of at least 0 and at most ``most``, and finite."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= most or value == math.inf:
        limit = "" if most == math.inf else f", at most {most:g}"
        raise ImproperlyConfigured(f"{where} must be 0 or more{limit}, not {value!r}.")
    return float(value)


def count(value: Any, where: str) -> int:
    """Return a whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ImproperlyConfigured(f"{where} must be a positive whole number, not {value!r}.")
    return value
