"""Registers the built-in drift rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plugins.drift.cosine import CosineRule
from plugins.drift_contracts import DriftRule
from plugins.hookspecs import hookimpl


@hookimpl
def recserve_drift_rules() -> Mapping[str, Callable[..., DriftRule]]:
    """Return the built-in drift rules."""
    return {"cosine": CosineRule}
