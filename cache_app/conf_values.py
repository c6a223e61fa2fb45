"""Checks of single values of settings: each returns the value, or says what it must be.

Each takes the value, and where it stands in the settings, for the message of its
`ImproperlyConfigured`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from plugins.options import did_you_mean

__all__ = [
    "at_most",
    "count",
    "file_path",
    "mapping",
    "namespace",
    "one_of",
    "part",
    "positive",
    "section",
    "switch",
    "text",
]


T = TypeVar("T")
_MOST = 10**9
"""The largest number that is taken for a setting without a check of its own."""


def part(
    name: str,
    type_: Callable[..., T],
    checks: Mapping[str, Callable[[Any, str], Any]] | None = None,
) -> T:
    """Return a part of ``RECSERVE`` as an instance of a dataclass whose fields have defaults.

    A key is a field's name in upper case. What ``checks`` has no check for goes by the type of the
    field's default: a switch, a whole number, or any number, both above 0 and up to a billion.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is of the wrong form.
    """
    where = f'RECSERVE["{name}"]'
    known: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(type_)  # type: ignore[arg-type]
    by_type = {each.name.upper(): _BY_TYPE.get(type(each.default)) for each in known}
    check: dict[str, Any] = by_type | dict(checks or {})
    given = section(getattr(settings, "RECSERVE", {}).get(name, {}), where, by_type)
    return type_(**{key.lower(): check[key](v, f"{where}[{key!r}]") for key, v in given.items()})


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


def _up_to_most(check: Callable[[Any, str], float]) -> Callable[[Any, str], float]:
    def checked(value: Any, where: str) -> float:
        number = check(value, where)
        if number > _MOST:
            raise ImproperlyConfigured(f"{where} must be at most {_MOST}, not {value!r}.")
        return number

    return checked


_BY_TYPE: dict[type, Callable[[Any, str], Any]] = {
    bool: switch,
    int: _up_to_most(count),
    float: _up_to_most(positive),
}
