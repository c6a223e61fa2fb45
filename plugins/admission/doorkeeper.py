"""A doorkeeper."""

from __future__ import annotations

from plugins.admission.base import BaseAdmissionFilter, Spotter
from plugins.contracts import Candidate, PolicyHost
from plugins.eviction.sketch import FrequencySketch

__all__ = ["Doorkeeper"]


class Doorkeeper(BaseAdmissionFilter):
    """Admits a key only when it is asked for again: one-hit wonders never come in.

    Maggs, Sitaraman: Algorithmic nuggets in content delivery, CCR 2015 ("cache on second hit"),
    and the doorkeeper of Einziger, Friedman, Manes: TinyLFU, ACM TOS 2017. Deviations: the Bloom
    filter is a count-min sketch, so that more than two asks can be required; it is halved, not
    emptied, after ten times as many asks as it has keys; and what was warmed, or is here, comes in.

    Args:
        asks: At which ask a key is admitted.
        keys: How many different keys are told apart; 16 bytes each.
    """

    def __init__(self, *, asks: int = 2, keys: int = 100_000) -> None:
        if not 1 <= asks <= 15:
            raise ValueError(f"asks must be from 1 to 15, not {asks}.")
        if keys < 1:
            raise ValueError(f"keys must be at least 1, not {keys}.")
        self._asks = asks
        self._sketch = FrequencySketch(keys)

    def attach(self, host: PolicyHost) -> None:
        """Remember the host."""
        super().attach(host)
        self._spots = Spotter(host)

    def admit(self, candidate: Candidate, now: float) -> bool:
        """Count an ask, and return whether there were enough."""
        if candidate.resident or candidate.origin == "warmup":
            return True
        spots = self._spots(candidate.key)
        self._sketch.add(spots)
        return self._sketch.frequency(spots) >= self._asks

    def check(self) -> None:
        """Verify the sketch."""
        self._sketch.check()
