"""Switching plugins on again, in every process: it travels as invalidations do.

What fails again and again is switched off by the process in which it fails (`plugins.failures`). An
operator who has mended it, or wants to see it fail again, says so once: the next epoch of the
plugin's scope tells every process, on every host, to forget what went wrong before.
"""

from __future__ import annotations

from cache_app import wiring
from cache_app.invalidation import invalidate_scopes
from plugins.apps import get_registry
from plugins.errors import UnknownPlugin
from plugins.options import did_you_mean

__all__ = ["PluginSwitches", "switch_on"]


def _scope(plugin: str) -> str:
    return f"p:{plugin}"


def switch_on(plugin: str) -> None:
    """Let every part of a plugin that was switched off work again, in every process.

    Raises:
        UnknownPlugin: There is none of this name.
        DatabaseError: It could not be written.
    """
    names = [record.name for record in get_registry().records]
    if plugin not in names:
        raise UnknownPlugin(f"There is no plugin {plugin!r}.{did_you_mean(plugin, names)}")
    invalidate_scopes([_scope(plugin)])


class PluginSwitches:
    """Follows what operators say of plugins, in one process. One thread does."""

    def __init__(self) -> None:
        self._seen: dict[str, int] | None = None

    def follow(self) -> None:
        """Switch on what is to be on again, and let L1 have what is on.

        What was said before the first call, was said before this process could have failed.
        """
        failures = get_registry().failures
        generations = wiring.get_generations()
        latest = {
            record.name: generations.epoch_of(_scope(record.name))
            for record in get_registry().records
        }
        if self._seen is not None:
            for name, epoch in latest.items():
                if epoch > self._seen.get(name, 0):
                    failures.switch_on(name)
        self._seen = latest
        wiring.tend_l1()
