"""System checks of the cache."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from cache_app.conf import cache_settings
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
