"""Registers the built-in feature sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plugins.contracts import FeatureSource
from plugins.features.file import FileFeatures
from plugins.hookspecs import hookimpl


@hookimpl
def recserve_feature_sources() -> Mapping[str, Callable[..., FeatureSource]]:
    """Return the built-in feature sources."""
    return {"file": FileFeatures}
