"""What a drift rule is given, and what it says: whether a user's preferences have changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

__all__ = ["DriftAction", "DriftCase", "DriftRule", "DriftVerdict"]

DriftAction: TypeAlias = Literal["keep", "refresh", "drop"]
"""What becomes of a user's cached answers: nothing; they are computed anew in the background; they
are forgotten, and computed when they are asked for."""


@dataclass(frozen=True, slots=True)
class DriftCase:
    """A user's preferences then and now."""

    before: Mapping[str, float]
    """Weights by term, when its answers were refreshed last; of length 1, unless it is empty."""
    now: Mapping[str, float]
    """Weights by term now; of length 1, unless it is empty."""
    events: int
    """What the user has done since then; of feature vectors, how many came."""
    seconds: float
    """Since then."""
    suspected: int
    """How often in a row, just before, the rule has suspected a change (see `DriftVerdict`)."""
    source: Literal["events", "features"]
    """What the weights come from: what the user did, or a feature vector that was sent."""


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    """What a rule says of a case."""

    action: DriftAction
    distance: float
    """How much has changed, 0 (nothing) to 1 (everything)."""
    reason: str
    """One line for people."""
    suspects: bool = False
    """Whether, although nothing is done yet, a change is suspected; the next case counts it."""


class DriftRule(Protocol):
    """Decides whether a change is significant. One thread at a time calls it."""

    def judge(self, case: DriftCase) -> DriftVerdict:
        """Return what is to be done. It depends on the case alone, and changes nothing of it."""
