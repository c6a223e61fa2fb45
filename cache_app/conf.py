"""The settings of the cache: ``RECSERVE["CACHE"]``, read here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from cache_app.core.freshness import Freshness
from cache_app.embedded_level import LEAST_BYTES
from plugins.options import did_you_mean

__all__ = ["CacheSettings", "EmbeddedSettings", "cache_settings"]


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """Settings of the embedded L2."""

    path: Path
    """``L2.PATH``: the folder of its file, on a disk of this host."""
    max_bytes: int = 256 * 1024 * 1024
    """``L2.MAX_BYTES``: the most that the file takes on the disk."""
    compress_above: int = 512
    """``L2.COMPRESS_ABOVE``: from how many bytes on a value is compressed."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Settings of the cache."""

    namespace: str = "recserve"
    """``NAMESPACE``: first part of every key; keeps deployments apart that share a level."""
    ttl: float = 300.0
    """``TTL``: seconds that a cached answer is fresh."""
    jitter: float = 0.1
    """``JITTER``: part of the TTL by which it is shortened at random."""
    early: float = 1.0
    """``EARLY``: how early what is slow to compute is refreshed; 0: never."""
    stale_while_revalidate: float = 30.0
    """``STALE_WHILE_REVALIDATE``: seconds that a stale answer serves while it is renewed."""
    stale_if_error: float = 3600.0
    """``STALE_IF_ERROR``: seconds that a stale answer serves when it cannot be renewed."""
    l1_capacity: int = 100_000
    """``L1.CAPACITY``: the most entries in a process's memory."""
    l1_policy: str = "sieve"
    """``L1.POLICY``: the eviction policy, by its plugin's name."""
    l1_options: Mapping[str, Any] = field(default_factory=dict)
    """``L1.OPTIONS``: options of the policy."""
    l2: EmbeddedSettings | None = None
    """``L2``: the level below, of ``BACKEND`` ``embedded``; None: there is only L1."""

    @property
    def freshness(self) -> Freshness:
        """Return the rules of the lifetimes."""
        return Freshness(
            ttl=self.ttl,
            jitter=self.jitter,
            early=self.early,
            stale_while_revalidate=self.stale_while_revalidate,
            stale_if_error=self.stale_if_error,
        )


_FRESHNESS = {
    "JITTER": 1.0,
    "EARLY": 100.0,
    "STALE_WHILE_REVALIDATE": math.inf,
    "STALE_IF_ERROR": math.inf,
}
"""The keys of lifetimes, with the most that each may be."""


def cache_settings() -> CacheSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is not one that the key takes.
    """
    cache = 'RECSERVE["CACHE"]'
    given = _section(
        getattr(settings, "RECSERVE", {}).get("CACHE", {}),
        cache,
        ("NAMESPACE", "TTL", *_FRESHNESS, "L1", "L2"),
    )
    level = f'{cache}["L1"]'
    l1 = _section(given.get("L1", {}), level, ("CAPACITY", "POLICY", "OPTIONS"))
    values: dict[str, Any] = {}
    if "NAMESPACE" in given:
        values["namespace"] = _text(given["NAMESPACE"], f'{cache}["NAMESPACE"]')
    if "TTL" in given:
        values["ttl"] = _seconds(given["TTL"], f'{cache}["TTL"]')
    for key, most in _FRESHNESS.items():
        if key in given:
            values[key.lower()] = _at_most(given[key], most, f"{cache}[{key!r}]")
    if "CAPACITY" in l1:
        values["l1_capacity"] = _count(l1["CAPACITY"], f'{level}["CAPACITY"]')
    if "POLICY" in l1:
        values["l1_policy"] = _text(l1["POLICY"], f'{level}["POLICY"]')
    if "OPTIONS" in l1:
        values["l1_options"] = dict(_mapping(l1["OPTIONS"], f'{level}["OPTIONS"]'))
    if "L2" in given:
        values["l2"] = _l2(given["L2"], f'{cache}["L2"]')
    return CacheSettings(**values)


def _l2(given: Any, where: str) -> EmbeddedSettings | None:
    l2 = _section(given, where, ("BACKEND", "PATH", "MAX_BYTES", "COMPRESS_ABOVE"))
    backend = l2.get("BACKEND")
    if backend is None:
        return None
    if backend != "embedded":
        raise ImproperlyConfigured(
            f'{where}["BACKEND"] must be "embedded" or None, not {backend!r}.'
        )
    if not isinstance(path := l2.get("PATH"), str | Path) or not str(path):
        raise ImproperlyConfigured(f'{where}["PATH"] must be a folder\'s path, not {path!r}.')
    values: dict[str, Any] = {"path": Path(path)}
    if "MAX_BYTES" in l2:
        values["max_bytes"] = _count(l2["MAX_BYTES"], f'{where}["MAX_BYTES"]')
        if values["max_bytes"] < LEAST_BYTES:
            raise ImproperlyConfigured(
                f'{where}["MAX_BYTES"] must be {LEAST_BYTES} (16 MiB) at least, '
                f"not {l2['MAX_BYTES']}."
            )
    if "COMPRESS_ABOVE" in l2:
        values["compress_above"] = _count(l2["COMPRESS_ABOVE"], f'{where}["COMPRESS_ABOVE"]')
    return EmbeddedSettings(**values)


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


def _at_most(value: Any, most: float, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= most or value == math.inf:
        limit = "" if most == math.inf else f", at most {most:g}"
        raise ImproperlyConfigured(f"{where} must be 0 or more{limit}, not {value!r}.")
    return float(value)


def _count(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ImproperlyConfigured(f"{where} must be a positive whole number, not {value!r}.")
    return value
