"""Settings become objects here: lazily, after a server has forked, and once per process."""

from __future__ import annotations

import functools
import threading
from typing import Any

from cache_app.conf import cache_settings
from cache_app.core.codec import Codec
from cache_app.core.levels import Level, Levels
from cache_app.core.memory import MemoryLevel
from cache_app.embedded_level import EmbeddedLevel
from plugins.apps import get_registry

_lock = threading.Lock()
_levels: Levels | None = None
_embedded: EmbeddedLevel | None = None
_value_type: Any = None


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


def reset() -> None:
    """Forget the cache, so that the next use builds a new one (for tests)."""
    global _levels, _embedded  # noqa: PLW0603  (one cache per process)
    with _lock:
        if _embedded is not None:
            _embedded.close()
        _levels = _embedded = None


def _build() -> Levels:
    global _embedded  # noqa: PLW0603  (one cache per process)
    settings = cache_settings()
    policy_factory = functools.partial(
        get_registry().eviction_policies.create, settings.l1_policy, settings.l1_options
    )
    levels: list[Level] = [MemoryLevel(policy_factory, capacity=settings.l1_capacity)]
    if settings.l2 is not None:
        if _value_type is None:
            raise RuntimeError("Call cache_app.wiring.set_value_type before the cache is used.")
        codec = Codec(_value_type, threshold=settings.l2.compress_above)
        _embedded = EmbeddedLevel(settings.l2.path, codec, max_bytes=settings.l2.max_bytes)
        levels.append(_embedded)
    return Levels(levels)
