"""Warms who came on this day a week ago."""

from plugins import InvalidOptions, WarmupCandidate
from plugins.warmup.tallies import Tallies, best

DAY = 86_400.0


class LastWeek:
    """Warms what was asked on this day a week ago, the most asked first.

    Args:
        weeks: How many weeks ago.
    """

    def __init__(self, *, weeks: int = 1):
        if weeks < 1:
            raise InvalidOptions(f"The option 'weeks' must be at least 1, not {weeks}.")
        self._weeks = weeks

    def candidates(self, activity, limit):
        begins = activity.now - self._weeks * 7 * DAY
        tallies = Tallies()  # of a bounded number of questions: activity may not fit the memory
        for asking in activity.askings(begins, begins + DAY):
            tallies.add(asking, asking.count)
        for tally in best(tallies, limit):
            yield WarmupCandidate(tally.request, float(tally.count), f"asked {tally.times} then")
