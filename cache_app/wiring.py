"""Settings become objects here: lazily, after a server has forked, and once per process."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

from cache_app.conf import (
    CacheSettings,
    ClusterSettings,
    EmbeddedSettings,
    RedisSettings,
    SentinelSettings,
    cache_settings,
)
from cache_app.core.breaker import Breaker, GuardedLevel
from cache_app.core.codec import Codec
from cache_app.core.generations import Generations
from cache_app.core.levels import Level, Levels
from cache_app.core.memory import MemoryLevel
from cache_app.embedded_level import EmbeddedLevel
from cache_app.epoch_file import EpochFile
from cache_app.models import Invalidation
from cache_app.redis_cluster import ClusterNodes
from cache_app.redis_level import RedisLevel
from cache_app.redis_servers import OneServer, SentinelMaster, Servers
from plugins.apps import get_registry

_lock = threading.Lock()
_levels: Levels | None = None
_closings: list[Callable[[], None]] = []
"""What frees the levels' files and connections."""
_generations: Generations | None = None
_epochs: EpochFile | None = None
_value_type: Any = None

logger = logging.getLogger(__name__)


def set_value_type(value_type: Any) -> None:
    """Say what every cached value is, for the levels that keep bytes.

    Whoever caches calls it once, before the first use (serving: in ``ServingConfig.ready``); the
    cache itself knows no type of theirs.

    Args:
        value_type: A type that msgspec can write and check, or a `cache_app.core.codec.Wire`.
    """
    global _value_type  # noqa: PLW0603  (one cache per process)
    _value_type = value_type


def get_levels() -> Levels:
    """Return this process's cache; build it on first use.

    Raises:
        ImproperlyConfigured: The settings of the cache are wrong.
        PluginError: There is no eviction policy of the name that they give, or its options are
            wrong.
    """
    global _levels  # noqa: PLW0603  (one cache per process)
    if _levels is None:
        with _lock:
            if _levels is None:
                _levels = _build()
    return _levels


def get_generations() -> Generations:
    """Return what this process knows of invalidations; build it on first use."""
    global _generations, _epochs  # noqa: PLW0603  (one cache per process)
    if _generations is None:
        with _lock:
            if _generations is None:
                _epochs = _open_epochs(cache_settings())
                hint = _epochs.read if _epochs is not None else _no_hint
                _generations = Generations(Invalidation.after, hint=hint)
    return _generations


def tell(epoch: int) -> None:
    """Let the processes of this host, this one first, know of an invalidation."""
    generations = get_generations()
    if _epochs is not None:
        _epochs.advance(epoch)
    generations.refresh()


def _no_hint() -> int:
    """Return always the same: without a file in common, processes look now and then."""
    return 0


def _open_epochs(settings: CacheSettings) -> EpochFile | None:
    if settings.epoch_file is None:
        return None
    try:
        epochs = EpochFile(settings.epoch_file)
    except OSError:
        logger.exception("Invalidations of other processes are seen only now and then")
        return None
    _closings.append(epochs.close)
    return epochs


def reset() -> None:
    """Forget the cache, so that the next use builds a new one (for tests)."""
    global _levels, _generations, _epochs  # noqa: PLW0603  (one cache per process)
    with _lock:
        while _closings:
            _closings.pop()()
        _levels = _generations = _epochs = None


def _build() -> Levels:
    settings = cache_settings()
    policy_factory = functools.partial(
        get_registry().eviction_policies.create, settings.l1_policy, settings.l1_options
    )
    levels: list[Level] = [MemoryLevel(policy_factory, capacity=settings.l1_capacity)]
    levels += _levels_below(settings)
    return Levels(levels)


def _levels_below(settings: CacheSettings) -> list[Level]:
    """Return L2 and L3, as far as they are configured."""
    levels: list[Level] = []
    match settings.l2:
        case EmbeddedSettings() as l2:
            embedded = EmbeddedLevel(l2.path, _codec(l2.compress_above), max_bytes=l2.max_bytes)
            _closings.append(embedded.close)
            levels.append(embedded)
        case RedisSettings() as l2:
            one = OneServer("l2", l2.url, timeout=l2.timeout)
            levels.append(_in_redis("l2", one, l2.compress_above))
    match settings.l3:
        case SentinelSettings() as l3:
            master = SentinelMaster(
                "l3",
                l3.sentinels,
                l3.service,
                timeout=l3.timeout,
                credentials=_credentials(l3),
            )
            levels.append(_in_redis("l3", master, l3.compress_above))
        case ClusterSettings() as l3:
            nodes = ClusterNodes("l3", l3.nodes, timeout=l3.timeout, credentials=_credentials(l3))
            levels.append(_in_redis("l3", nodes, l3.compress_above))
    return levels


def _in_redis(name: str, servers: Servers, compress_above: int) -> Level:
    level = RedisLevel(name, servers, _codec(compress_above))
    _closings.append(level.close)
    return GuardedLevel(level, Breaker())


def _credentials(given: SentinelSettings | ClusterSettings) -> dict[str, Any]:
    return {"username": given.username, "password": given.password}


def _codec(compress_above: int) -> Codec:
    if _value_type is None:
        raise RuntimeError("Call cache_app.wiring.set_value_type before the cache is used.")
    return Codec(_value_type, threshold=compress_above)
