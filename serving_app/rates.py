"""How often a caller may ask, for every door: `limit` says whether it is limited, `check` counts.

Where L2 is one Redis, rates hold over all processes that share it. Without one, and while it does
not answer, each process counts for itself: a cache that is down refuses nobody.
"""

from __future__ import annotations

import hashlib
import threading

from cache_app.conf import RedisSettings, cache_settings
from cache_app.core.steps import Steps, run
from cache_app.redis_rates import RedisRates
from cache_app.redis_servers import OneServer
from plugins import Throttled
from serving_app.access_conf import access_settings
from serving_app.core.access import Access
from serving_app.core.throttling import LocalRates, Rate

__all__ = ["check", "check_sign_in", "count", "counting", "limit", "reset", "shared"]

_lock = threading.Lock()
_rates: tuple[LocalRates, RedisRates | None] | None = None


def limit(access: Access, scope: str) -> Rate | None:
    """Return the caller's rate for a scope of `SCOPES`; None: it has none.

    Without one, `check` need not be called. It waits for nothing.
    """
    rates = access_settings().throttles[scope]
    return rates[access.role] if access.role in rates else rates.get("")


def shared() -> bool:
    """Return whether `check` asks a Redis: an event loop takes the steps of `counting` then."""
    return _get()[1] is not None


def check(access: Access, scope: str, cost: int = 1) -> None:
    """Count requests of a caller in a scope.

    Raises:
        Throttled: That would be too many; nothing was counted.
    """
    rate = limit(access, scope)
    if rate is not None:
        count(access, scope, rate, cost)


def count(access: Access, scope: str, rate: Rate, cost: int = 1) -> None:
    """Do what `check` does, with the rate that `limit` gave.

    Raises:
        Throttled: That would be too many; nothing was counted.
    """
    run(counting(access, scope, rate, cost))


def counting(access: Access, scope: str, rate: Rate, cost: int = 1) -> Steps[None]:
    """Do what `count` does, in steps."""
    return _taking(f"{scope}:{access.subject}", rate, cost)


def check_sign_in(address: str, username: str) -> None:
    """Count an attempt to sign in, by where it comes from and as whom.

    Raises:
        Throttled: That would be too many.
    """
    rate = access_settings().throttles["sign_in"].get("")
    if rate is not None:
        who = hashlib.blake2b(f"{address}\n{username}".encode("utf-8", "replace"), digest_size=12)
        run(_taking(f"sign_in:{who.hexdigest()}", rate, 1))


def reset() -> None:
    """Forget who asked (for tests)."""
    global _rates  # noqa: PLW0603  (one set per process)
    with _lock:
        if _rates is not None and _rates[1] is not None:
            _rates[1].close()
        _rates = None


def _get() -> tuple[LocalRates, RedisRates | None]:
    global _rates  # noqa: PLW0603  (one set per process)
    if _rates is None:
        with _lock:
            if _rates is None:
                cache = cache_settings()
                redis = None
                if isinstance(cache.l2, RedisSettings):
                    server = OneServer(
                        "rates",
                        cache.l2.url,
                        timeout=cache.l2.timeout,
                        access=cache.l2.access.for_url(),
                    )
                    redis = RedisRates(server, cache.namespace)
                _rates = LocalRates(), redis
    return _rates


def _taking(key: str, rate: Rate, cost: int) -> Steps[None]:
    local, redis = _get()
    wait = None
    if redis is not None:
        wait = yield from redis.taking(
            key, interval=rate.interval, requests=rate.requests, cost=cost
        )
    if wait is None:
        wait = local.take(key, rate, cost)
    if wait > 0:
        raise Throttled(
            f"Too many requests: at most {rate.requests} in {rate.seconds:g} s are allowed.",
            retry_after=wait,
        )
