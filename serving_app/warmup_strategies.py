"""Makes warm-up strategies out of a name and options, as an operator gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugins import ArtifactRejected, InvalidOptions, WarmupStrategy
from plugins.apps import get_registry
from serving_app.conf import serving_settings
from serving_app.core.artifacts import locate

__all__ = ["make_strategy"]


def make_strategy(name: str, options: Mapping[str, Any] | None = None) -> WarmupStrategy:
    """Return a new strategy. Making one is also how its options are checked.

    An option named ``path`` is a path in the model store, which is the one folder that operators
    may name files of; the strategy gets it as an absolute one.

    Raises:
        UnknownPlugin: There is no strategy of this name.
        InvalidOptions: An option is unknown, missing, of the wrong type or makes no sense, or the
            path is not in the store.
        PluginError: What the plugin returned is no strategy.
    """
    strategies = get_registry().warmup_strategies
    strategies.check_options(name, options)
    given = dict(options or {})
    if isinstance(given.get("path"), str):
        try:
            path = locate(serving_settings().model_store, given["path"])
        except ArtifactRejected as error:
            raise InvalidOptions(f"The option 'path' of {name}: {error}") from error
        given["path"] = str(path)
    return strategies.create(name, given)
