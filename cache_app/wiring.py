"""Settings become objects here: lazily, after a server has forked, and once per process."""

from __future__ import annotations

import functools
import threading

from cache_app.conf import cache_settings
from cache_app.core.levels import Levels
from cache_app.core.memory import MemoryLevel
from plugins.apps import get_registry

_lock = threading.Lock()
_levels: Levels | None = None


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
    global _levels  # noqa: PLW0603  (one cache per process)
    with _lock:
        _levels = None


def _build() -> Levels:
    settings = cache_settings()
    policy_factory = functools.partial(
        get_registry().eviction_policies.create, settings.l1_policy, settings.l1_options
    )
    return Levels([MemoryLevel(policy_factory, capacity=settings.l1_capacity)])
