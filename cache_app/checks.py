"""System checks of the cache."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from cache_app.conf import cache_settings
from cache_app.redis_access import is_redis
from plugins.apps import get_registry
from plugins.errors import PluginError


def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """Return what is wrong with ``RECSERVE["CACHE"]``."""
    try:
        cache = cache_settings()
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="cache_app.E001")]
    try:
        registry = get_registry()
        registry.eviction_policies.check_options(cache.l1_policy, cache.l1_options)
        for name, options in cache.l1_admission:
            registry.admission_filters.check_options(name, options)
    except ImproperlyConfigured:
        return []  # the settings of plugins are wrong: their own check says so
    except PluginError as error:
        return [
            checks.Error(
                str(error),
                hint='Correct RECSERVE["CACHE"]["L1"]: POLICY, OPTIONS or ADMISSION.',
                id="cache_app.E002",
            )
        ]
    return []


def check_caches(**_: Any) -> list[checks.CheckMessage]:
    """Return what is dangerous, or slow, about the Redis servers of ``CACHES``."""
    found: list[checks.CheckMessage] = []
    for name, cache in settings.CACHES.items():
        backend = cache.get("BACKEND")
        if not is_redis(backend):
            continue
        options = cache.get("OPTIONS") or {}
        by_django = backend != "django_redis.cache.RedisCache"
        serializer = options.get("serializer" if by_django else "SERIALIZER", _PICKLE)
        if "pickle" in str(serializer).lower():
            found.append(
                checks.Warning(
                    f'CACHES["{name}"] unpickles what it reads: whoever can write into that Redis '
                    "runs code in this process.",
                    hint='Use django_redis.cache.RedisCache with the option "SERIALIZER": '
                    '"django_redis.serializers.json.JSONSerializer".',
                    id="cache_app.W001",
                )
            )
        of_pool = options if by_django else options.get("CONNECTION_POOL_KWARGS") or {}
        guarded = options.get("CONNECTION_FACTORY") == "cache_app.redis_caches.BreakingFactory"
        for key in ("socket_timeout", "socket_connect_timeout"):
            seconds = of_pool.get(key, options.get(key.upper(), 0.1 if guarded else None))
            if not isinstance(seconds, int | float) or seconds > 1:
                is_so = f"is {seconds!r}" if seconds is not None else "is not set (5 s, or more)"
                found.append(
                    checks.Warning(
                        f'CACHES["{name}"]: {key.upper()} {is_so}: a request may wait that long '
                        "for a Redis that hangs.",
                        hint="Set it to 1 s or less, in seconds.",
                        id="cache_app.W002",
                    )
                )
    return found


_PICKLE = "pickle, the default"
