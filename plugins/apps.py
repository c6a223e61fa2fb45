"""The app's configuration, and the one registry of a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from django.apps import AppConfig
from django.core import checks

from plugins.conf import plugin_settings
from plugins.failures import Failures, PartFailures
from plugins.loading import load_plugins
from plugins.registry import PluginRegistry

__all__ = [
    "PluginsConfig",
    "failures_everywhere",
    "get_registry",
    "report_failures_by",
    "reset_registry",
]

_lock = threading.Lock()
_registry: PluginRegistry | None = None
_report: Callable[[], Mapping[str, Mapping[str, PartFailures]]] | None = None


class PluginsConfig(AppConfig):
    """Plugins: contracts, registry and the built-in ones."""

    name = "plugins"
    verbose_name = "Plugins"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks. Plugins are loaded on first use, after a fork."""
        from plugins.checks import check_plugins  # noqa: PLC0415  (it imports this module)

        checks.register(check_plugins)


def get_registry() -> PluginRegistry:
    """Return what the plugins provide; they are loaded on the first call.

    Raises:
        ImproperlyConfigured: The settings of plugins are wrong.
    """
    global _registry  # noqa: PLW0603  (one registry per process, built under the lock)
    if _registry is None:
        with _lock:
            if _registry is None:
                settings = plugin_settings()
                failures = Failures(limit=settings.max_failures, window=settings.failure_seconds)
                _registry = load_plugins(blocked=settings.blocked, failures=failures)
    return _registry


def report_failures_by(report: Callable[[], Mapping[str, Mapping[str, PartFailures]]]) -> None:
    """Say what knows the failures of all processes; serving does. Called before the first use."""
    global _report  # noqa: PLW0603  (one process, one way to ask the others)
    _report = report


def failures_everywhere() -> Mapping[str, Mapping[str, PartFailures]]:
    """Return what plugins did wrong in all processes that serve, by plugin and part.

    Raises:
        DatabaseError: The others' cannot be read.
    """
    return get_registry().failures.by_plugin() if _report is None else _report()


def reset_registry() -> None:
    """Forget the registry, so that the next use loads the plugins anew (for tests)."""
    global _registry  # noqa: PLW0603
    with _lock:
        _registry = None
