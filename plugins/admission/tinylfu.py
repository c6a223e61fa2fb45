"""TinyLFU."""

from __future__ import annotations

from bisect import bisect_right

from plugins.admission.base import BaseAdmissionFilter, Spotter
from plugins.contracts import Candidate, Entry, PolicyHost
from plugins.eviction.sketch import FrequencySketch

__all__ = ["TinyLFU"]

_HALVINGS = 16
"""Halvings that are remembered: no count is left after as many."""


class TinyLFU(BaseAdmissionFilter):
    """Lets a newcomer take a victim's place only if it was asked for more often lately.

    Einziger, Friedman, Manes: TinyLFU: A highly efficient cache admission policy, ACM TOS 2017;
    it goes with any eviction policy. Deviations: the sketch counts misses, and of the victim its
    own hits are added, which L1 counts exactly, halved as often as the sketch was since the last
    of them; there is no doorkeeper (it is a filter of its own). What was warmed is not refused,
    as nobody has asked for it yet.

    Args:
        keys: How many different keys are told apart; 16 bytes each.
    """

    def __init__(self, *, keys: int = 100_000) -> None:
        if keys < 1:
            raise ValueError(f"keys must be at least 1, not {keys}.")
        self._sketch = FrequencySketch(keys)
        self._halved: list[float] = []  # when, the last at the end

    def attach(self, host: PolicyHost) -> None:
        """Remember the host."""
        super().attach(host)
        self._spots = Spotter(host)

    def admit(self, candidate: Candidate, now: float) -> bool:
        """Count an ask, and admit it for now: its victim is not known yet."""
        asked = not candidate.resident and candidate.origin != "warmup"
        if asked and self._sketch.add(self._spots(candidate.key)):
            self._note(now)
        return True

    def prefers(self, candidate: Candidate, victim: Entry, now: float) -> bool:
        """Return whether the candidate was asked for more often than the victim."""
        if candidate.resident or candidate.origin == "warmup":
            return True
        halvings = len(self._halved) - bisect_right(self._halved, victim.used)
        asked = self._sketch.frequency(self._spots(candidate.key))
        return asked > self._sketch.frequency(self._spots(victim.key)) + (victim.uses >> halvings)

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Halve the sketch: most of the old keys are useless."""
        self._sketch.halve()

    def _note(self, now: float) -> None:
        if self._halved and now < self._halved[-1]:
            self._halved = []  # the clock was set back
        self._halved = [*self._halved[-_HALVINGS:], now]

    def check(self) -> None:
        """Verify the sketch."""
        self._sketch.check()
        assert self._halved == sorted(self._halved), "the halvings are out of order"
