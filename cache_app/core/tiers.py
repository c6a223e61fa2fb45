"""How much an entry is used: hot, warm or cold; and what follows from it.

A tier is a function of an entry's use, looked at when its value is renewed and by L1's sweeps,
never on a hit. It says how long a new value is fresh, and which levels hold it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["TIERS", "Tier", "TierRule", "Tiers"]

Tier: TypeAlias = Literal["hot", "warm", "cold"]

TIERS: tuple[Tier, ...] = ("hot", "warm", "cold")


@dataclass(frozen=True, slots=True)
class TierRule:
    """What follows from a tier."""

    ttl: float = 1.0
    """How long a value stored in this tier is fresh, in TTLs."""
    levels: frozenset[str] | None = None
    """The levels that hold it, by name; None: all."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """The rules of the tiers.

    An entry is *hot* from ``hot_uses`` hits on, and stays so while it has half as many: hits are
    halved whenever the value is renewed, so that they tell of lately. It is *cold* once nobody
    has asked for it for ``cool_after`` seconds, until somebody does. All others, and every new
    entry, are *warm*: whoever asked a moment ago often asks again.
    """

    hot_uses: int = 8
    """Hits that make an entry hot."""
    cool_after: float = 900.0
    """Seconds without a hit after which an entry is cold."""
    hot: TierRule = TierRule(ttl=1.1)
    warm: TierRule = TierRule()
    cold: TierRule = TierRule(ttl=0.5, levels=frozenset({"l2"}))

    def of(self, uses: int, idle: float, before: Tier = "warm") -> Tier:
        """Return the tier of an entry.

        Args:
            uses: Its hits, halved at each renewal.
            idle: Seconds since its last hit, or since it came.
            before: The tier that it was in.
        """
        if idle >= self.cool_after:
            return "cold"
        needed = self.hot_uses / 2 if before == "hot" else self.hot_uses
        return "hot" if uses >= needed else "warm"

    def rule(self, tier: Tier) -> TierRule:
        """Return what follows from a tier."""
        rule: TierRule = getattr(self, tier)
        return rule

    def ttl(self, tier: Tier, ttl: float, stale: float) -> float:
        """Return how many seconds a value is fresh; never longer than it is kept."""
        return min(ttl * self.rule(tier).ttl, ttl + stale)

    def held_by(self, tier: Tier, levels: Iterable[str]) -> frozenset[str]:
        """Return which of the levels, the first being the fastest, hold a tier.

        If none of the tier's levels is among them, it is the first: an entry is always somewhere.
        """
        names = list(levels)
        wanted = self.rule(tier).levels
        held = frozenset(name for name in names if wanted is None or name in wanted)
        return held or frozenset(names[:1])
