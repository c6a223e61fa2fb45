"""The settings of the cache: ``RECSERVE["CACHE"]``, read here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from cache_app.core.freshness import Freshness
from cache_app.core.tiers import TIERS, TierRule, Tiers
from cache_app.embedded_level import LEAST_BYTES
from cache_app.redis_access import ACCESS, ANYONE, Access, alias, read_access, redis_url
from cache_app.redis_connections import Address
from cache_app.redis_ring import node_name
from plugins.options import did_you_mean

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
class EmbeddedSettings:
    """Settings of the embedded L2."""

    path: Path
    """``L2.PATH``: the folder of its file, on a disk of this host."""
    max_bytes: int = 256 * 1024 * 1024
    """``L2.MAX_BYTES``: the most that the file takes on the disk."""
    compress_above: int = 512
    """``L2.COMPRESS_ABOVE``: from how many bytes on a value is compressed."""


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Settings of an L2 in one Redis."""

    url: str = field(repr=False)  # it may hold a password
    """``L2.URL``: where it is; or ``L2.ALIAS``: the alias of ``CACHES`` that says it."""
    timeout: float = 0.05
    """``L2.TIMEOUT``: seconds to wait for an answer; twice as many for a connection."""
    compress_above: int = 512
    """``L2.COMPRESS_ABOVE``: from how many bytes on a value is compressed."""
    access: Access = ANYONE
    """``L2.USERNAME``, ``L2.PASSWORD``, ``L2.TLS``: how it lets in, besides what the URL says."""


@dataclass(frozen=True, slots=True)
class SentinelSettings:
    """Settings of an L3 in a Redis that Sentinels name."""

    sentinels: tuple[Address, ...]
    """``L3.SENTINELS``: where the Sentinels are."""
    service: str
    """``L3.SERVICE``: the name by which they know the Redis."""
    access: Access = ANYONE
    """``L3.USERNAME``, ``L3.PASSWORD``, ``L3.DB``, ``L3.TLS``: how the Redis lets in."""
    sentinel_access: Access = ANYONE
    """``L3.SENTINEL_USERNAME``, ``L3.SENTINEL_PASSWORD``, ``L3.SENTINEL_TLS``: how Sentinels do."""
    timeout: float = 0.05
    """``L3.TIMEOUT``: seconds to wait for an answer; twice as many for a connection."""
    compress_above: int = 512
    """``L3.COMPRESS_ABOVE``: from how many bytes on a value is compressed."""


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Settings of an L3 in a Redis Cluster."""

    nodes: tuple[Address, ...]
    """``L3.NODES``: where some of its nodes are; the cluster names the others."""
    access: Access = ANYONE
    """``L3.USERNAME``, ``L3.PASSWORD``, ``L3.TLS``: how every node lets in."""
    timeout: float = 0.05
    """``L3.TIMEOUT``: seconds to wait for an answer; twice as many for a connection."""
    compress_above: int = 512
    """``L3.COMPRESS_ABOVE``: from how many bytes on a value is compressed."""


@dataclass(frozen=True, slots=True)
class RingSettings:
    """Settings of an L3 in several independent Redis servers."""

    nodes: Mapping[str, float] = field(repr=False)  # they may hold passwords
    """``L3.NODES``: their URLs, with their weights."""
    replicas: int = 1
    """``L3.REPLICAS``: how many of them have a copy of each key."""
    timeout: float = 0.05
    """``L3.TIMEOUT``: seconds to wait for an answer; twice as many for a connection."""
    compress_above: int = 512
    """``L3.COMPRESS_ABOVE``: from how many bytes on a value is compressed."""
    access: Access = ANYONE
    """``L3.TLS``: the certificates of all."""


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
    given = _section(
        getattr(settings, "RECSERVE", {}).get("CACHE", {}),
        cache,
        (
            *("NAMESPACE", "TTL", *_TIMES, "L1", "L2", "L3", "TIERS"),
            *("COHERENCE", "EPOCH_FILE", "TRAIN_DICTIONARIES"),
        ),
    )
    values: dict[str, Any] = {}
    if "NAMESPACE" in given:
        values["namespace"] = _namespace(given["NAMESPACE"], f'{cache}["NAMESPACE"]')
    if "TTL" in given:
        values["ttl"] = _positive(given["TTL"], f'{cache}["TTL"]')
    for key, most in _TIMES.items():
        if key in given:
            values[key.lower()] = _at_most(given[key], most, f"{cache}[{key!r}]")
    if "L1" in given:
        values |= _l1(given["L1"], f'{cache}["L1"]')
    if "L2" in given:
        values["l2"] = _l2(given["L2"], f'{cache}["L2"]')
    if "L3" in given:
        values["l3"] = _l3(given["L3"], f'{cache}["L3"]')
    if "TIERS" in given:
        values["tiers"] = _tiers(given["TIERS"], f'{cache}["TIERS"]', values.get("l2"))
    if "COHERENCE" in given:
        values["coherence"] = _one_of(
            given["COHERENCE"], ("strict", "bounded"), f'{cache}["COHERENCE"]'
        )
    if given.get("EPOCH_FILE") is not None:
        values["epoch_file"] = _file_path(given["EPOCH_FILE"], f'{cache}["EPOCH_FILE"]')
    if "TRAIN_DICTIONARIES" in given:
        values["train_dictionaries"] = _switch(
            given["TRAIN_DICTIONARIES"], f'{cache}["TRAIN_DICTIONARIES"]'
        )
    return CacheSettings(**values)


def _l1(given: Any, where: str) -> dict[str, Any]:
    _section(given, where, ("CAPACITY", "MAX_BYTES", "POLICY", "OPTIONS", "ADMISSION"))
    values: dict[str, Any] = {}
    if "CAPACITY" in given:
        values["l1_capacity"] = _count(given["CAPACITY"], f'{where}["CAPACITY"]')
    if given.get("MAX_BYTES") is not None:
        values["l1_max_bytes"] = _count(given["MAX_BYTES"], f'{where}["MAX_BYTES"]')
        if "CAPACITY" in given:
            raise ImproperlyConfigured(
                f"{where} has both CAPACITY (entries) and MAX_BYTES; give only one of them."
            )
    if "POLICY" in given:
        values["l1_policy"] = _text(given["POLICY"], f'{where}["POLICY"]')
    if "OPTIONS" in given:
        values["l1_options"] = dict(_mapping(given["OPTIONS"], f'{where}["OPTIONS"]'))
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
        one = {"NAME": each} if isinstance(each, str) else _section(each, place, _FILTER)
        name = _text(one.get("NAME"), f'{place}["NAME"]')
        filters.append((name, dict(_mapping(one.get("OPTIONS", {}), f'{place}["OPTIONS"]'))))
    return tuple(filters)


_FILTER = ("NAME", "OPTIONS")


_LEVELS = ("l1", "l2", "l3")


def _tiers(given: Any, where: str, l2: object) -> Tiers:
    rules = tuple(tier.upper() for tier in TIERS)
    _section(given, where, ("HOT_USES", "COOL_AFTER", *rules))
    values: dict[str, Any] = {}
    if "HOT_USES" in given:
        values["hot_uses"] = _count(given["HOT_USES"], f'{where}["HOT_USES"]')
    if "COOL_AFTER" in given:
        values["cool_after"] = _positive(given["COOL_AFTER"], f'{where}["COOL_AFTER"]')
    for tier in TIERS:
        if tier.upper() in given:
            before = Tiers().rule(tier)
            values[tier] = _tier(given[tier.upper()], f'{where}["{tier.upper()}"]', before, l2)
    return Tiers(**values)


def _tier(given: Any, where: str, rule: TierRule, l2: object) -> TierRule:
    _section(given, where, ("TTL", "LEVELS"))
    ttl = _positive(given["TTL"], f'{where}["TTL"]') if "TTL" in given else rule.ttl
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


_EMBEDDED = ("BACKEND", "PATH", "MAX_BYTES", "COMPRESS_ABOVE")
_SERVERS = ("BACKEND", *ACCESS, "TIMEOUT", "COMPRESS_ABOVE")
_REDIS = (*_SERVERS, "URL", "ALIAS")
_SENTINEL = (*_SERVERS, "DB", *(f"SENTINEL_{key}" for key in ACCESS), "SENTINELS", "SERVICE")
_CLUSTER = (*_SERVERS, "NODES")
_RING = ("BACKEND", "NODES", "REPLICAS", "TLS", "TIMEOUT", "COMPRESS_ABOVE")
_MOST_WEIGHT = 10.0
"""Of a node of the ring: a weight costs memory, and time to begin with."""


def _l2(given: Any, where: str) -> EmbeddedSettings | RedisSettings | None:
    match _backend(given, where, {"embedded": _EMBEDDED, "redis": _REDIS}):
        case "embedded":
            return _embedded(given, where)
        case "redis":
            return _redis(given, where)
    return None


def _redis(given: Mapping[str, Any], where: str) -> RedisSettings:
    values = _timeout_and_compression(given, where)
    if given.get("ALIAS") is None:
        url = redis_url(given.get("URL"), f'{where}["URL"]')
        return RedisSettings(url, **values, access=read_access(given, where, url=url))
    for key in ("URL", *ACCESS):
        if given.get(key) is not None:
            raise ImproperlyConfigured(
                f"{where} has both ALIAS and {key}; the alias says {key} in CACHES."
            )
    url, access = alias(given["ALIAS"], f'{where}["ALIAS"]')
    return RedisSettings(url, **values, access=access)


def _l3(given: Any, where: str) -> SentinelSettings | ClusterSettings | RingSettings | None:
    keys = {"sentinel": _SENTINEL, "cluster": _CLUSTER, "ring": _RING}
    backend = _backend(given, where, keys)
    if backend is None:
        return None
    values = _timeout_and_compression(given, where)
    if backend == "ring":
        return _ring(given, values, where)
    access = read_access(given, where)
    if backend == "cluster":
        nodes = _addresses(given.get("NODES"), f'{where}["NODES"]')
        return ClusterSettings(nodes, access=access, **values)
    if given.get("SENTINEL_TLS") is None:  # as the Redis, if not said otherwise
        given = {**given, "SENTINEL_TLS": given.get("TLS")}
    return SentinelSettings(
        _addresses(given.get("SENTINELS"), f'{where}["SENTINELS"]'),
        _text(given.get("SERVICE"), f'{where}["SERVICE"]'),
        access=access,
        sentinel_access=read_access(given, where, prefix="SENTINEL_"),
        **values,
    )


def _ring(given: Mapping[str, Any], values: dict[str, Any], where: str) -> RingSettings:
    nodes = _weights(given.get("NODES"), f'{where}["NODES"]')
    replicas = _count(given.get("REPLICAS", 1), f'{where}["REPLICAS"]')
    if replicas > len(nodes):
        raise ImproperlyConfigured(
            f'{where}["REPLICAS"] must be {len(nodes)} at most, the number of nodes, '
            f"not {replicas}."
        )
    access = ANYONE
    for url in nodes:
        access = read_access(given, where, url=url)
    return RingSettings(nodes, replicas, access=access, **values)


def _weights(given: Any, where: str) -> dict[str, float]:
    """Return the URLs of nodes, with their weights. URLs may hold passwords, and are not shown."""
    if not isinstance(given, list | tuple | Mapping) or not given:
        raise ImproperlyConfigured(
            f"{where} must be a list of URLs, or a dict of URLs and weights, that is not empty."
        )
    weights: dict[str, float] = {}
    names: set[str] = set()
    for number, node in enumerate(given, 1):
        url = redis_url(node, f"{where}, number {number},")
        name = node_name(url)
        if name in names:
            raise ImproperlyConfigured(f"{where} must name {name} only once.")
        names.add(name)
        weight = given[node] if isinstance(given, Mapping) else 1.0
        weights[url] = _positive(weight, f"{where}: the weight of {name}")
        if weights[url] > _MOST_WEIGHT:
            raise ImproperlyConfigured(
                f"{where}: the weight of {name} must be at most {_MOST_WEIGHT:g}, not {weight!r}."
            )
    return weights


def _backend(given: Any, where: str, keys: Mapping[str, tuple[str, ...]]) -> str | None:
    """Return the backend of a level; its keys are checked."""
    backend = _mapping(given, where).get("BACKEND")
    if backend is None:  # then nothing else counts, and a level may be switched off so
        _section(given, where, dict.fromkeys(key for some in keys.values() for key in some))
        return None
    if backend not in keys:
        names = ", ".join(f'"{name}"' for name in keys)
        raise ImproperlyConfigured(f'{where}["BACKEND"] must be {names} or None, not {backend!r}.')
    _section(given, where, keys[backend])
    return str(backend)


def _embedded(l2: Mapping[str, Any], where: str) -> EmbeddedSettings:
    values: dict[str, Any] = {"path": _file_path(l2.get("PATH"), f'{where}["PATH"]')}
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


def _timeout_and_compression(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if "TIMEOUT" in given:
        values["timeout"] = _positive(given["TIMEOUT"], f'{where}["TIMEOUT"]')
    if "COMPRESS_ABOVE" in given:
        values["compress_above"] = _count(given["COMPRESS_ABOVE"], f'{where}["COMPRESS_ABOVE"]')
    return values


def _addresses(given: Any, where: str) -> tuple[Address, ...]:
    if not isinstance(given, list | tuple) or not given:
        raise ImproperlyConfigured(
            f'{where} must be a list of texts "host:port" that is not empty, not {given!r}.'
        )
    return tuple(_address(each, where) for each in given)


def _address(given: Any, where: str) -> Address:
    try:
        parts = urlsplit(f"//{given}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not isinstance(given, str) or not host or not port or parts.netloc != given:
        raise ImproperlyConfigured(f'{where} must have texts "host:port", not {given!r}.')
    return host, port


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


def _file_path(value: Any, where: str) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ImproperlyConfigured(f"{where} must be a path, not {value!r}.")
    return Path(value)


def _switch(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ImproperlyConfigured(f"{where} must be True or False, not {value!r}.")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ImproperlyConfigured(f"{where} must be a text that is not empty, not {value!r}.")
    return value


def _namespace(value: Any, where: str) -> str:
    if len(_text(value, where)) > 200:
        raise ImproperlyConfigured(f"{where} must have 200 characters at most.")
    return str(value)


def _one_of(value: Any, choices: Sequence[str], where: str) -> str:
    if value not in choices:
        words = " or ".join(f'"{choice}"' for choice in choices)
        raise ImproperlyConfigured(f"{where} must be {words}, not {value!r}.")
    return str(value)


def _positive(value: Any, where: str) -> float:
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
