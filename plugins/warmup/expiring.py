"""What is asked again and again, and is about to expire."""

from __future__ import annotations

from collections.abc import Iterator

from plugins.warmup.fading import Fading
from plugins.warmup.option_checks import DAY, MINUTE, at_least, positive
from plugins.warmup.tallies import Tallies, best
from plugins.warmup_contracts import ActivityView, WarmupCandidate

__all__ = ["Expiring"]

_LOOKS = 10
"""Questions that may be looked up for each candidate that is wanted."""


class Expiring:
    """Warms what is cached, will be stale before long, and is likely to be asked again.

    How often a question is asked, lately more than before, says whether it is worth it. Give it at
    least the time between two runs as ``ahead_minutes``, or answers expire in between.

    Args:
        ahead_minutes: How long before it is stale an answer is renewed.
        days: How far back activity counts; what was asked a quarter of it ago counts half.
        minimum: How often a question must have been asked in that time.
    """

    def __init__(self, *, ahead_minutes: float = 10.0, days: float = 7.0, minimum: int = 3) -> None:
        self.renew_before = positive("ahead_minutes", ahead_minutes) * MINUTE
        """Seconds: what stays fresh for no longer is computed although it is fresh."""
        self._days = positive("days", days)
        self._fading = Fading(days, days / 4)
        self._minimum = at_least("minimum", minimum, 1)

    def candidates(self, activity: ActivityView, limit: int) -> Iterator[WarmupCandidate]:
        """Yield what is asked most of all that is about to expire."""
        now, worth, tallies = activity.now, self._fading.worth, Tallies()
        for asking in activity.askings(now - self._days * DAY, now):
            tallies.add(asking, asking.count * worth(now - asking.last))
        likely = best(tallies, _LOOKS * limit, keep=lambda each: each.count >= self._minimum)
        found = 0
        for tally in likely:
            fresh_for = activity.fresh_for(tally.request)
            if fresh_for is None or fresh_for > self.renew_before:
                continue
            per_day = tally.weight * self._fading.per_day
            state = "stale" if fresh_for <= 0 else f"stale in {fresh_for:.0f} s"
            yield WarmupCandidate(
                tally.request, per_day, f"{state}; asked {per_day:.1f} times a day"
            )
            found += 1
            if found == limit:
                return
