"""The settings of the levels below L1: ``RECSERVE["CACHE"]["L2"]`` and ``["L3"]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from cache_app.conf_values import count, file_path, mapping, positive, section, text
from cache_app.embedded_level import LEAST_BYTES
from cache_app.redis_access import ACCESS, ANYONE, Access, alias, read_access, redis_url
from cache_app.redis_connections import Address
from cache_app.redis_ring import node_name

__all__ = [
    "ClusterSettings",
    "EmbeddedSettings",
    "RedisSettings",
    "RingSettings",
    "SentinelSettings",
    "read_l2",
    "read_l3",
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


_EMBEDDED = ("BACKEND", "PATH", "MAX_BYTES", "COMPRESS_ABOVE")
_SERVERS = ("BACKEND", *ACCESS, "TIMEOUT", "COMPRESS_ABOVE")
_REDIS = (*_SERVERS, "URL", "ALIAS")
_SENTINEL = (*_SERVERS, "DB", *(f"SENTINEL_{key}" for key in ACCESS), "SENTINELS", "SERVICE")
_CLUSTER = (*_SERVERS, "NODES")
_RING = ("BACKEND", "NODES", "REPLICAS", "TLS", "TIMEOUT", "COMPRESS_ABOVE")
_MOST_WEIGHT = 10.0
"""Of a node of the ring: a weight costs memory, and time to begin with."""


def read_l2(given: Any, where: str) -> EmbeddedSettings | RedisSettings | None:
    """Return the settings of L2; None: there is none."""
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


def read_l3(given: Any, where: str) -> SentinelSettings | ClusterSettings | RingSettings | None:
    """Return the settings of L3; None: there is none."""
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
        text(given.get("SERVICE"), f'{where}["SERVICE"]'),
        access=access,
        sentinel_access=read_access(given, where, prefix="SENTINEL_"),
        **values,
    )


def _ring(given: Mapping[str, Any], values: dict[str, Any], where: str) -> RingSettings:
    nodes = _weights(given.get("NODES"), f'{where}["NODES"]')
    replicas = count(given.get("REPLICAS", 1), f'{where}["REPLICAS"]')
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
        weights[url] = positive(weight, f"{where}: the weight of {name}")
        if weights[url] > _MOST_WEIGHT:
            raise ImproperlyConfigured(
                f"{where}: the weight of {name} must be at most {_MOST_WEIGHT:g}, not {weight!r}."
            )
    return weights


def _backend(given: Any, where: str, keys: Mapping[str, tuple[str, ...]]) -> str | None:
    """Return the backend of a level; its keys are checked."""
    backend = mapping(given, where).get("BACKEND")
    if backend is None:  # then nothing else counts, and a level may be switched off so
        section(given, where, dict.fromkeys(key for some in keys.values() for key in some))
        return None
    if backend not in keys:
        names = ", ".join(f'"{name}"' for name in keys)
        raise ImproperlyConfigured(f'{where}["BACKEND"] must be {names} or None, not {backend!r}.')
    section(given, where, keys[backend])
    return str(backend)


def _embedded(l2: Mapping[str, Any], where: str) -> EmbeddedSettings:
    values: dict[str, Any] = {"path": file_path(l2.get("PATH"), f'{where}["PATH"]')}
    if "MAX_BYTES" in l2:
        values["max_bytes"] = count(l2["MAX_BYTES"], f'{where}["MAX_BYTES"]')
        if values["max_bytes"] < LEAST_BYTES:
            raise ImproperlyConfigured(
                f'{where}["MAX_BYTES"] must be {LEAST_BYTES} (16 MiB) at least, '
                f"not {l2['MAX_BYTES']}."
            )
    if "COMPRESS_ABOVE" in l2:
        values["compress_above"] = count(l2["COMPRESS_ABOVE"], f'{where}["COMPRESS_ABOVE"]')
    return EmbeddedSettings(**values)


def _timeout_and_compression(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if "TIMEOUT" in given:
        values["timeout"] = positive(given["TIMEOUT"], f'{where}["TIMEOUT"]')
    if "COMPRESS_ABOVE" in given:
        values["compress_above"] = count(given["COMPRESS_ABOVE"], f'{where}["COMPRESS_ABOVE"]')
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
