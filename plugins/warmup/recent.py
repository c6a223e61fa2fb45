"""Who was here last."""

from __future__ import annotations

from collections.abc import Iterator

from plugins.warmup.option_checks import HOUR, at_least, positive
from plugins.warmup.tallies import Tallies, best
from plugins.warmup_contracts import ActivityView, WarmupCandidate

__all__ = ["Recent"]


class Recent:
    """Warms what was asked last.

    How likely it is that someone comes back falls with the time since; the score falls from 1 to
    0 over the hours that count.

    Args:
        hours: How far back activity counts.
        minimum: How often a question must have been asked in that time.
    """

    def __init__(self, *, hours: float = 24.0, minimum: int = 1) -> None:
        self._seconds = positive("hours", hours) * HOUR
        self._minimum = at_least("minimum", minimum, 1)

    def candidates(self, activity: ActivityView, limit: int) -> Iterator[WarmupCandidate]:
        """Yield the questions that were asked last."""
        now, tallies = activity.now, Tallies()
        for asking in activity.askings(now - self._seconds - HOUR, now):
            if now - asking.last < self._seconds:  # the first hour began before
                tallies.add(asking, 0.0)
        for tally in best(tallies, limit, keep=lambda each: each.count >= self._minimum):
            age = max(0.0, now - tally.last)
            yield WarmupCandidate(
                tally.request, 1 - age / self._seconds, f"last asked {_in_words(age)} ago"
            )


def _in_words(seconds: float) -> str:
    return f"{seconds / HOUR:.1f} h" if seconds >= HOUR else f"{seconds / 60:.0f} min"
