"""The most asked: by count, or by a count that fades."""

from __future__ import annotations

import math
from collections.abc import Iterable

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
        self._half_life = (
            None if half_life_days is None else positive("half_life_days", half_life_days)
        )
        self._minimum = at_least("minimum", minimum, 1)

    def candidates(self, activity: ActivityView, limit: int) -> Iterable[WarmupCandidate]:
        """Return the most asked questions."""
        now, tallies = activity.now, Tallies()
        for asking in activity.askings(now - self._days * DAY, now):
            tallies.add(asking, asking.count * self._worth(now - asking.last))
        per_day = self._per_day()
        for tally in best(tallies, limit, keep=lambda each: each.count >= self._minimum):
            yield WarmupCandidate(
                tally.request,
                tally.weight * per_day,
                f"asked {tally.count} times in {self._days:g} days",
            )

    def _worth(self, age: float) -> float:
        """Return what an asking counts that was so many seconds ago."""
        if self._half_life is None:
            return 1.0
        return float(0.5 ** (max(0.0, age) / (self._half_life * DAY)))

    def _per_day(self) -> float:
        """Return what one asking a day would weigh, inverted."""
        if self._half_life is None:
            return 1 / self._days
        # The integral of the worth over the days that count.
        rate = math.log(2) / self._half_life
        return rate / -math.expm1(-rate * self._days)
