"""The settings of the cache: ``RECSERVE["CACHE"]``, read here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from cache_app.conf_values import (
    at_most,
    count,
    file_path,
    mapping,
    namespace,
    one_of,
    positive,
    section,
    switch,
    text,
)
from cache_app.core.freshness import Freshness
from cache_app.core.tiers import TIERS, TierRule, Tiers
from cache_app.level_conf import (
    ClusterSettings,
    EmbeddedSettings,
    RedisSettings,
    RingSettings,
    SentinelSettings,
    read_l2,
    read_l3,
)

__all__ = [
    "CacheSettings",
    "ClusterSettings",
    "EmbeddedSettings",
    "RedisSettings",
    "RingSettings",
    "SentinelSettings",
    "cache_settings",
]


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Settings of the cache."""

    namespace: str = "recserve"
    """``NAMESPACE``: first part of every key; keeps deployments apart that share a level."""
    ttl: float = 300.0
    """``TTL``: seconds that a cached answer is fresh."""
    max_ttl: float | None = None
    """``MAX_TTL``: the most that a segment's answers may be fresh; None: an hour, or `TTL` if that
    is longer. Invalidations are remembered accordingly."""
    jitter: float = 0.1
    """``JITTER``: part of the TTL by which it is shortened at random."""
    early: float = 1.0
    """``EARLY``: how early what is slow to compute is refreshed; 0: never."""
    stale_while_revalidate: float = 30.0
    """``STALE_WHILE_REVALIDATE``: seconds that a stale answer serves while it is renewed."""
    stale_if_error: float = 3600.0
    """``STALE_IF_ERROR``: seconds that a stale answer serves when it cannot be renewed."""
    negative_ttl: float = 0.0
    """``NEGATIVE_TTL``: seconds that a process remembers which questions have no answer; 0: it
    does not."""
    l1_capacity: int = 100_000
    """``L1.CAPACITY``: the most entries in a process's memory."""
    l1_max_bytes: int | None = None
    """``L1.MAX_BYTES``: the most that they may weigh, encoded, in place of ``CAPACITY``; None: they
    are counted."""
    l1_policy: str = "sieve"
    """``L1.POLICY``: the eviction policy, by its plugin's name."""
    l1_options: Mapping[str, Any] = field(default_factory=dict)
    """``L1.OPTIONS``: options of the policy."""
    l1_admission: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """``L1.ADMISSION``: admission filters, by their plugins' names, with their options."""
    l2: EmbeddedSettings | RedisSettings | None = None
    """``L2``: the level below L1, of ``BACKEND`` ``embedded`` or ``redis``; None: there is none."""
    l3: SentinelSettings | ClusterSettings | RingSettings | None = None
    """``L3``: the lowest level, of ``BACKEND`` ``sentinel``, ``cluster`` or ``ring``; None: there
    is none."""

    tiers: Tiers = field(default_factory=Tiers)
    """``TIERS``: what makes an entry hot, warm or cold, and what follows from it."""
    coherence: str = "bounded"
    """``COHERENCE``: ``strict``: the database says at each request what has been invalidated;
    ``bounded``: file and bus tell, which may take a moment between hosts."""
    epoch_file: Path | None = None
    """``EPOCH_FILE``: tells the processes of this host at once of invalidations; None: nothing
    does, and they look at the database now and then."""
    train_dictionaries: bool = True
    """``TRAIN_DICTIONARIES``: whether serving processes train compression dictionaries."""

    @property
    def longest_ttl(self) -> float:
        """Return the most seconds that any answer is fresh."""
        return max(self.ttl, 3600.0) if self.max_ttl is None else self.max_ttl

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


_TIMES = {
    "JITTER": 1.0,
    "EARLY": 100.0,
    "STALE_WHILE_REVALIDATE": math.inf,
    "STALE_IF_ERROR": math.inf,
    "NEGATIVE_TTL": 300.0,  # a user who signs up must not be refused for long
}
"""The keys of lifetimes, with the most that each may be."""


def cache_settings() -> CacheSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is not one that the key takes.
    """
    cache = 'RECSERVE["CACHE"]'
    given = section(
        getattr(settings, "RECSERVE", {}).get("CACHE", {}),
        cache,
        (
            *("NAMESPACE", "TTL", *_TIMES, "L1", "L2", "L3", "TIERS", "MAX_TTL"),
            *("COHERENCE", "EPOCH_FILE", "TRAIN_DICTIONARIES"),
        ),
    )
    values: dict[str, Any] = {}
    if "NAMESPACE" in given:
        values["namespace"] = namespace(given["NAMESPACE"], f'{cache}["NAMESPACE"]')
    if "TTL" in given:
        values["ttl"] = positive(given["TTL"], f'{cache}["TTL"]')
    values["max_ttl"] = _max_ttl(given.get("MAX_TTL"), cache, values.get("ttl"))
    for key, most in _TIMES.items():
        if key in given:
            values[key.lower()] = at_most(given[key], most, f"{cache}[{key!r}]")
    if "L1" in given:
        values |= _l1(given["L1"], f'{cache}["L1"]')
    if "L2" in given:
        values["l2"] = read_l2(given["L2"], f'{cache}["L2"]')
    if "L3" in given:
        values["l3"] = read_l3(given["L3"], f'{cache}["L3"]')
    if "TIERS" in given:
        values["tiers"] = _tiers(given["TIERS"], f'{cache}["TIERS"]', values.get("l2"))
    if "COHERENCE" in given:
        values["coherence"] = one_of(
            given["COHERENCE"], ("strict", "bounded"), f'{cache}["COHERENCE"]'
        )
    if given.get("EPOCH_FILE") is not None:
        values["epoch_file"] = file_path(given["EPOCH_FILE"], f'{cache}["EPOCH_FILE"]')
    if "TRAIN_DICTIONARIES" in given:
        values["train_dictionaries"] = switch(
            given["TRAIN_DICTIONARIES"], f'{cache}["TRAIN_DICTIONARIES"]'
        )
    return CacheSettings(**values)


def _max_ttl(given: Any, cache: str, ttl: float | None) -> float | None:
    if given is None:
        return None
    longest = positive(given, f'{cache}["MAX_TTL"]')
    if longest < (ttl or CacheSettings().ttl):
        raise ImproperlyConfigured(f'{cache}["MAX_TTL"] is less than TTL: {longest:g}.')
    return longest


def _l1(given: Any, where: str) -> dict[str, Any]:
    section(given, where, ("CAPACITY", "MAX_BYTES", "POLICY", "OPTIONS", "ADMISSION"))
    values: dict[str, Any] = {}
    if "CAPACITY" in given:
        values["l1_capacity"] = count(given["CAPACITY"], f'{where}["CAPACITY"]')
    if given.get("MAX_BYTES") is not None:
        values["l1_max_bytes"] = count(given["MAX_BYTES"], f'{where}["MAX_BYTES"]')
        if "CAPACITY" in given:
            raise ImproperlyConfigured(
                f"{where} has both CAPACITY (entries) and MAX_BYTES; give only one of them."
            )
    if "POLICY" in given:
        values["l1_policy"] = text(given["POLICY"], f'{where}["POLICY"]')
    if "OPTIONS" in given:
        values["l1_options"] = dict(mapping(given["OPTIONS"], f'{where}["OPTIONS"]'))
    if "ADMISSION" in given:
        values["l1_admission"] = _filters(given["ADMISSION"], f'{where}["ADMISSION"]')
    return values


def _filters(given: Any, where: str) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """Return names with options, of a list of names, or of dicts of name and options."""
    if not isinstance(given, list | tuple):
        raise ImproperlyConfigured(f"{where} must be a list, not {given!r}.")
    filters = []
    for number, each in enumerate(given, 1):
        place = f"{where}, number {number}"
        one = {"NAME": each} if isinstance(each, str) else section(each, place, _FILTER)
        name = text(one.get("NAME"), f'{place}["NAME"]')
        filters.append((name, dict(mapping(one.get("OPTIONS", {}), f'{place}["OPTIONS"]'))))
    return tuple(filters)


_FILTER = ("NAME", "OPTIONS")


_LEVELS = ("l1", "l2", "l3")


def _tiers(given: Any, where: str, l2: object) -> Tiers:
    rules = tuple(tier.upper() for tier in TIERS)
    section(given, where, ("HOT_USES", "COOL_AFTER", *rules))
    values: dict[str, Any] = {}
    if "HOT_USES" in given:
        values["hot_uses"] = count(given["HOT_USES"], f'{where}["HOT_USES"]')
    if "COOL_AFTER" in given:
        values["cool_after"] = positive(given["COOL_AFTER"], f'{where}["COOL_AFTER"]')
    for tier in TIERS:
        if tier.upper() in given:
            before = Tiers().rule(tier)
            values[tier] = _tier(given[tier.upper()], f'{where}["{tier.upper()}"]', before, l2)
    return Tiers(**values)


def _tier(given: Any, where: str, rule: TierRule, l2: object) -> TierRule:
    section(given, where, ("TTL", "LEVELS"))
    ttl = positive(given["TTL"], f'{where}["TTL"]') if "TTL" in given else rule.ttl
    levels = rule.levels
    if "LEVELS" in given:
        levels = _level_names(given["LEVELS"], f'{where}["LEVELS"]')
        if isinstance(l2, RedisSettings) and levels is not None and "l2" not in levels:
            raise ImproperlyConfigured(
                f'{where}["LEVELS"] must have "l2": it is a Redis, and processes that wait for '
                f"one computation look for its result there."
            )
    return TierRule(ttl, levels)


def _level_names(given: Any, where: str) -> frozenset[str] | None:
    if given is None:
        return None
    known = isinstance(given, list | tuple) and all(name in _LEVELS for name in given)
    if not known or not given:
        names = ", ".join(f'"{name}"' for name in _LEVELS)
        raise ImproperlyConfigured(
            f"{where} must be None (all) or a list of some of {names}, not {given!r}."
        )
    return frozenset(given)
