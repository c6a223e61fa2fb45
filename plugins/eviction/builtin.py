"""Registers the built-in eviction policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plugins.contracts import EvictionPolicy
from plugins.eviction.fifo import FIFO
from plugins.eviction.lfu import LFU
from plugins.eviction.lru import LRU
from plugins.eviction.sieve import SIEVE
from plugins.eviction.ttl import TTLFirst
from plugins.hookspecs import hookimpl


@hookimpl
def recserve_eviction_policies() -> Mapping[str, Callable[..., EvictionPolicy]]:
    """Return the built-in eviction policies."""
    return {"lru": LRU, "lfu": LFU, "fifo": FIFO, "ttl": TTLFirst, "sieve": SIEVE}
