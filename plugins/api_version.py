"""The number of the contract between recserve and its plugins.

It grows by one with each release of recserve that adds a hook, or something to a contract. A plugin
says which it was written for: ``RECSERVE_PLUGIN_API = 1`` in its module. One that says nothing is
taken as it is, and judged by its hooks and methods.
"""

from __future__ import annotations

from typing import Any

from plugins.errors import PluginError

__all__ = ["OLDEST_PLUGIN_API", "PLUGIN_API", "needed_api"]

PLUGIN_API = 1
"""The contract as it is. Whatever is added to it, makes it one more."""
OLDEST_PLUGIN_API = 1
"""The oldest contract whose plugins still work. What is changed or taken away raises it."""


def needed_api(plugin: Any) -> int | None:
    """Return the number that a plugin says it was written for; None: it says nothing.

    Raises:
        PluginError: It is no number, or one that this recserve does not offer.
    """
    declared: object = getattr(plugin, "RECSERVE_PLUGIN_API", None)
    if declared is None:
        return None
    if not isinstance(declared, int) or isinstance(declared, bool):
        raise PluginError(f"its RECSERVE_PLUGIN_API is {declared!r}, which is no whole number")
    if declared > PLUGIN_API:
        raise PluginError(
            f"it was written for plugin API {declared}, but this recserve has {PLUGIN_API}: "
            f"upgrade recserve, or install an older release of the plugin"
        )
    if declared < OLDEST_PLUGIN_API:
        raise PluginError(
            f"it was written for plugin API {declared}, and this recserve takes "
            f"{OLDEST_PLUGIN_API} to {PLUGIN_API}: install a newer release of the plugin"
        )
    return declared
