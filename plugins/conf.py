"""The settings of plugins: ``RECSERVE["PLUGINS"]``, read here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from plugins.options import did_you_mean

__all__ = ["PluginSettings", "plugin_settings"]


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Settings of plugins. Each field is a key of ``RECSERVE["PLUGINS"]`` in upper case."""

    blocked: tuple[str, ...] = ()
    """Names of plugins that are not to be loaded; they are not even imported."""


def plugin_settings() -> PluginSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is not of the key's type.
    """
    given = getattr(settings, "RECSERVE", {}).get("PLUGINS", {})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured('RECSERVE["PLUGINS"] must be a dict.')
    keys = [each.name.upper() for each in fields(PluginSettings)]
    for key in given:
        if key not in keys:
            raise ImproperlyConfigured(
                f'RECSERVE["PLUGINS"] has no key {key!r}.{did_you_mean(key, keys)} '
                f"Its keys: {', '.join(keys)}."
            )
    blocked = given.get("BLOCKED", ())
    if not isinstance(blocked, list | tuple | set | frozenset) or not all(
        isinstance(name, str) for name in blocked
    ):
        raise ImproperlyConfigured(
            f'RECSERVE["PLUGINS"]["BLOCKED"] must be a list of plugin names, not {blocked!r}.'
        )
    return PluginSettings(blocked=tuple(sorted(blocked)))
