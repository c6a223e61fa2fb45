"""The settings of plugins: ``RECSERVE["PLUGINS"]``, read here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from plugins.options import did_you_mean

__all__ = ["PluginSettings", "plugin_settings"]

_MOST_FAILURES = 1000
"""Each part remembers as many instants."""


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Settings of plugins. Each field is a key of ``RECSERVE["PLUGINS"]`` in upper case."""

    blocked: tuple[str, ...] = ()
    """Names of plugins that are not to be loaded; they are not even imported."""
    max_failures: int = 5
    """So many failures of a part within `failure_seconds` switch it off; 0: nothing does."""
    failure_seconds: float = 60.0
    """The window in which they are counted."""


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
    most, seconds = given.get("MAX_FAILURES", 5), given.get("FAILURE_SECONDS", 60.0)
    if not isinstance(most, int) or isinstance(most, bool) or not 0 <= most <= _MOST_FAILURES:
        raise ImproperlyConfigured(
            f'RECSERVE["PLUGINS"]["MAX_FAILURES"] must be a whole number of 0 to '
            f"{_MOST_FAILURES}, not {most!r}."
        )
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds > 0:
        raise ImproperlyConfigured(
            f'RECSERVE["PLUGINS"]["FAILURE_SECONDS"] must be a number above 0, not {seconds!r}.'
        )
    return PluginSettings(tuple(sorted(blocked)), most, float(seconds))
