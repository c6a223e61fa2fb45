"""Registers the built-in eviction policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plugins.contracts import EvictionPolicy
from plugins.eviction.arc import ARC
from plugins.eviction.clock import CLOCK
from plugins.eviction.fifo import FIFO
from plugins.eviction.gdsf import GDSF
from plugins.eviction.lfu import LFU
from plugins.eviction.lirs import LIRS
from plugins.eviction.lru import LRU
from plugins.eviction.s3fifo import S3FIFO
from plugins.eviction.sieve import SIEVE
from plugins.eviction.ttl import TTLFirst
from plugins.eviction.two_q import TwoQ
from plugins.eviction.w_tinylfu import WTinyLFU
from plugins.hookspecs import hookimpl


@hookimpl
def recserve_eviction_policies() -> Mapping[str, Callable[..., EvictionPolicy]]:
    """Return the built-in eviction policies."""
    return {
        "lru": LRU,
        "lfu": LFU,
        "fifo": FIFO,
        "ttl": TTLFirst,
        "sieve": SIEVE,
        "clock": CLOCK,
        "s3fifo": S3FIFO,
        "two_q": TwoQ,
        "arc": ARC,
        "lirs": LIRS,
        "w_tinylfu": WTinyLFU,
        "gdsf": GDSF,
    }
