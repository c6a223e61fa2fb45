"""An answer that is computed before anyone asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cache_app.core.levels import Known
from cache_app.core.single_flight import Flight
from serving_app.core.ranking import Ranking

__all__ = ["Warming"]


@dataclass(frozen=True, slots=True)
class Warming:
    """What `Recommender.warm` has started, if anything."""

    known: Known | None
    """What the cache had."""
    flight: Flight[Ranking] | None
    """The computation under way; None: what the cache had is fresh enough."""
    leave: Callable[[], None] | None = None
    """Says, once, that nobody waits for the flight any more."""
