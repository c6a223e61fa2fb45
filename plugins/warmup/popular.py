"""The most asked: by count, or by a count that fades."""

from __future__ import annotations

from collections.abc import Iterator

from plugins.warmup.fading import Fading
from plugins.warmup.option_checks import DAY, at_least, positive
from plugins.warmup.tallies import Tallies, best
from plugins.warmup_contracts import ActivityView, WarmupCandidate

__all__ = ["Popular"]


class Popular:
    """Warms what is asked most: by count, or by a count that fades with time.

    Args:
        days: How far back activity counts.
        half_life_days: After how many days an asking counts half; None: all count alike.
        minimum: How often a question must have been asked.
    """

    def __init__(
        self, *, days: float = 30.0, half_life_days: float | None = None, minimum: int = 2
    ) -> None:
        self._days = positive("days", days)
        if half_life_days is not None:
            positive("half_life_days", half_life_days)
        self._fading = Fading(days, half_life_days)
        self._minimum = at_least("minimum", minimum, 1)

    def candidates(self, activity: ActivityView, limit: int) -> Iterator[WarmupCandidate]:
        """Yield the most asked questions."""
        now, worth, tallies = activity.now, self._fading.worth, Tallies()
        for asking in activity.askings(now - self._days * DAY, now):
            tallies.add(asking, asking.count * worth(now - asking.last))
        for tally in best(tallies, limit, keep=lambda each: each.count >= self._minimum):
            yield WarmupCandidate(
                tally.request,
                tally.weight * self._fading.per_day,
                f"asked {tally.times} in {self._days:g} days",
            )
