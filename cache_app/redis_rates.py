"""Rates that all processes share, in one Redis: GCRA in a script, so that each call is one step."""

from __future__ import annotations

import contextlib
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from cache_app.core.breaker import Breaker, PoolExhausted
from cache_app.core.steps import Steps, run
from cache_app.redis_servers import OneServer
from plugins.errors import LevelUnavailable

__all__ = ["RedisRates"]

_PREFIX = b"rs-rate:"
_SCRIPT = b"""
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local step, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now) + step
local wait = arrival - now - window
if wait > window * 1e-6 then return string.format('%.6f', wait) end
redis.call('SET', KEYS[1], string.format('%.6f', arrival),
           'PX', math.ceil((arrival - now) * 1000) + 1)
return '0'
"""


class RedisRates:
    """Rates in one Redis, by its clock. Any thread uses them, several at once.

    Args:
        server: The Redis.
        namespace: First part of every key.
        breaker: While it is open, Redis is not asked.
    """

    def __init__(self, server: OneServer, namespace: str, breaker: Breaker | None = None) -> None:
        self._server = server
        self._prefix = _PREFIX + namespace.encode() + b":"
        self._breaker = breaker or Breaker()
        self._sha: Any = None

    def take(self, key: str, *, interval: float, requests: int, cost: int = 1) -> float | None:
        """Do what `taking` does, on this thread."""
        return run(self.taking(key, interval=interval, requests=requests, cost=cost))

    def taking(
        self, key: str, *, interval: float, requests: int, cost: int = 1
    ) -> Steps[float | None]:
        """In steps, count ``cost`` requests, and return 0; or nothing, and return seconds to wait.

        None: Redis does not answer, and nothing was counted.

        Args:
            key: Who asks.
            interval: Seconds that one request stands for.
            requests: How many may come at once.
            cost: How many requests this is; above ``requests`` it counts as those.
        """
        who = object()
        if not self._breaker.allow(who):
            return None
        name = self._prefix + key.encode("utf-8", "surrogatepass")
        step = f"{interval * min(cost, requests):.9f}"
        try:
            waits = yield from self._asking(name, step, f"{interval * requests:.9f}")
        except ResponseError:  # full, or another's key: it is there, and this caller passes
            self._breaker.succeeded(who)
            return None
        except PoolExhausted:
            self._breaker.abandoned(who)
            return None
        except LevelUnavailable as error:
            answered = isinstance(error.__cause__, ResponseError)
            (self._breaker.succeeded if answered else self._breaker.failed)(who)
            return None
        self._breaker.succeeded(who)
        with contextlib.suppress(TypeError, ValueError):
            return float(waits)
        return None

    def _asking(self, name: bytes, step: str, window: str) -> Steps[Any]:
        server = self._server
        if self._sha is None:
            self._sha = yield from server.asking(name, "SCRIPT", "LOAD", _SCRIPT)
        try:
            return (yield from server.asking(name, "EVALSHA", self._sha, 1, name, step, window))
        except LevelUnavailable as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        # Redis was started anew.
        return (yield from server.asking(name, "EVAL", _SCRIPT, 1, name, step, window))

    def close(self) -> None:
        """Close the idle connections."""
        self._server.close()
