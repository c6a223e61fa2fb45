"""Registers the built-in warm-up strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plugins.hookspecs import hookimpl
from plugins.warmup.popular import Popular
from plugins.warmup_contracts import WarmupStrategy


@hookimpl
def recserve_warmup_strategies() -> Mapping[str, Callable[..., WarmupStrategy]]:
    """Return the built-in warm-up strategies."""
    return {"popular": Popular}
