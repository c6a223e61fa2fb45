"""How long a computed value is fresh, and how long a stale one may still answer."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

__all__ = ["Freshness", "Lifetime"]


@dataclass(frozen=True, slots=True)
class Lifetime:
    """What is decided of a value when it is stored, in seconds."""

    ttl: float
    """How long it is fresh."""
    stale: float
    """How long it is kept after that."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """The rules of a cache's lifetimes, in seconds.

    Jitter and early refresh are drawn once, when a value is stored, so that a hit pays nothing
    for them. A hot key is refreshed before its neighbours expire because its early end makes it
    *stale*: one caller's computation refreshes it while everyone is answered from the cache.

    Source of early refresh: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache
    Stampede Prevention", VLDB 2015 (XFetch): refresh when ``now + β·δ·Exp(1) ≥ expiry``, δ being
    the time to compute. Deviations: the exponential is drawn at the insertion, not at each hit;
    and it takes at most half of the lifetime, so that a slow model's values are still of use.
    """

    ttl: float
    """How long a value is fresh, before jitter and early refresh."""
    jitter: float = 0.1
    """Part of the TTL, 0 to 1, by which it is shortened at random, so that values that were
    stored together do not expire together."""
    early: float = 1.0
    """β of XFetch: how early a value that is slow to compute is refreshed; 0: never."""
    stale_while_revalidate: float = 30.0
    """How long after its freshness a value still answers while it is computed anew."""
    stale_if_error: float = 3600.0
    """How long after its freshness a value still answers when it cannot be computed anew."""

    @property
    def longest_stale(self) -> float:
        """Return the seconds after which a stale value answers no more, whatever happens."""
        return max(self.stale_while_revalidate, self.stale_if_error)

    def lifetime(self, cost: float, rng: Random) -> Lifetime:
        """Return the lifetime of a value that took ``cost`` seconds to compute."""
        shortened = self.ttl * self.jitter * rng.random()
        if self.early:
            shortened += self.early * cost * rng.expovariate(1.0)
        return Lifetime(
            ttl=self.ttl - min(shortened, self.ttl / 2),
            stale=self.longest_stale,
        )
