"""The settings of the cache: ``RECSERVE["CACHE"]``, read here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from plugins.options import did_you_mean

__all__ = ["CacheSettings", "cache_settings"]


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Settings of the cache."""

    namespace: str = "recserve"
    """``NAMESPACE``: first part of every key; keeps deployments apart that share a level."""
    ttl: float = 300.0
    """``TTL``: seconds that an answer is served from the cache."""
    l1_capacity: int = 100_000
    """``L1.CAPACITY``: the most entries in a process's memory."""
    l1_policy: str = "sieve"
    """``L1.POLICY``: the eviction policy, by its plugin's name."""
    l1_options: Mapping[str, Any] = field(default_factory=dict)
    """``L1.OPTIONS``: options of the policy."""


def cache_settings() -> CacheSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is not one that the key takes.
    """
    cache = 'RECSERVE["CACHE"]'
    given = _section(
        getattr(settings, "RECSERVE", {}).get("CACHE", {}), cache, ("NAMESPACE", "TTL", "L1")
    )
    level = f'{cache}["L1"]'
    l1 = _section(given.get("L1", {}), level, ("CAPACITY", "POLICY", "OPTIONS"))
    values: dict[str, Any] = {}
    if "NAMESPACE" in given:
        values["namespace"] = _text(given["NAMESPACE"], f'{cache}["NAMESPACE"]')
    if "TTL" in given:
        values["ttl"] = _seconds(given["TTL"], f'{cache}["TTL"]')
    if "CAPACITY" in l1:
        values["l1_capacity"] = _count(l1["CAPACITY"], f'{level}["CAPACITY"]')
    if "POLICY" in l1:
        values["l1_policy"] = _text(l1["POLICY"], f'{level}["POLICY"]')
    if "OPTIONS" in l1:
        values["l1_options"] = dict(_mapping(l1["OPTIONS"], f'{level}["OPTIONS"]'))
    return CacheSettings(**values)


def _section(given: Any, where: str, keys: Iterable[str]) -> Mapping[str, Any]:
    for key in _mapping(given, where):
        if key not in keys:
            raise ImproperlyConfigured(
                f"{where} has no key {key!r}.{did_you_mean(key, keys)} Its keys: {', '.join(keys)}."
            )
    return given  # type: ignore[no-any-return]  # it is a mapping


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ImproperlyConfigured(f"{where} must be a dict, not {value!r}.")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ImproperlyConfigured(f"{where} must be a text that is not empty, not {value!r}.")
    return value


def _seconds(value: Any, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ImproperlyConfigured(f"{where} must be a positive number, not {value!r}.")
    return float(value)


def _count(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ImproperlyConfigured(f"{where} must be a positive whole number, not {value!r}.")
    return value
