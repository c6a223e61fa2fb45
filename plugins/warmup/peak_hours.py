"""Who usually comes at this time of the day."""

from __future__ import annotations

import functools
import zoneinfo
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, tzinfo

from plugins.errors import InvalidOptions
from plugins.warmup.option_checks import DAY, HOUR, MINUTE, at_least, positive
from plugins.warmup.tallies import Tallies, Tally, best, times
from plugins.warmup_contracts import ActivityView, WarmupCandidate

__all__ = ["PeakHours"]


_SMOOTHING = 3.0
"""Askings that the hours of all weigh beside a question's own."""


class PeakHours:
    """Warms, before an hour of the day, what is usually asked in it.

    Each question's hours are learned from its activity, in local time. One that was seldom asked
    has not shown its hours yet, so the hours at which all was asked count as a few askings of its
    own. Together they give the chance that it is asked in the hour that comes. It is counted in
    how many hours something was asked, not how often: the first asking is what warming saves.

    With ``hours`` given, it warms before those hours only, what is asked in any of them.

    Args:
        hours: Hours of the day at which much is asked, 0 to 23; None: learned.
        ahead_minutes: How long before an hour begins it is warmed for.
        days: How far back activity counts.
        by_weekday: Whether each weekday has hours of its own; it takes weeks to learn them.
        minimum: In how many hours a question must have been asked, of any time of the day.
        chance: How likely, 0 to 1, it must be asked in the hour that comes.
        zone: The time zone of the hours, such as Europe/Berlin; None: that of the schedule.
    """

    def __init__(
        self,
        *,
        hours: list[int] | None = None,
        ahead_minutes: float = 30.0,
        days: float = 28.0,
        by_weekday: bool = False,
        minimum: int = 2,
        chance: float = 0.03,
        zone: str | None = None,
    ) -> None:
        self._hours = None if hours is None else _checked_hours(hours)
        self._ahead = positive("ahead_minutes", ahead_minutes) * MINUTE
        if self._ahead > DAY:
            raise InvalidOptions("The option 'ahead_minutes' must be at most a day.")
        self._days = positive("days", days)
        self._by_weekday = by_weekday
        self._minimum = at_least("minimum", minimum, 1)
        self._chance = at_least("chance", chance, 0)
        if chance > 1:
            raise InvalidOptions(f"The option 'chance' must be at most 1, not {chance!r}.")
        self._zone = None if zone is None else _checked_zone(zone)

    def candidates(self, activity: ActivityView, limit: int) -> Iterator[WarmupCandidate]:
        """Yield what is usually asked in the hour that comes."""
        local = functools.lru_cache(maxsize=64)(_local(self._zone or activity.zone))
        now, tallies = activity.now, Tallies()
        coming = local((now + self._ahead) // HOUR * HOUR)
        wanted = {coming.hour} if self._hours is None else self._hours
        if coming.hour not in wanted:
            return
        first, asked, asked_then = now, 0, 0
        for asking in activity.askings(now - self._days * DAY, now):
            hour = local(asking.hour)
            if not self._is_alike(hour, coming):
                continue
            then = hour.hour in wanted
            tallies.add(asking, float(then), times=1)
            first = min(first, asking.hour)
            asked += 1
            asked_then += then
        # A shop that is younger than the days that count has had fewer occasions.
        days = max(1.0, min(self._days, (now - first) / DAY) / (7 if self._by_weekday else 1))
        prior = _SMOOTHING * asked_then / max(1, asked)

        def expected(tally: Tally) -> float:
            """Return in how many of the wanted hours of a day it is asked."""
            share = (tally.weight + prior) / (tally.count + _SMOOTHING)
            return tally.count / days * share

        def is_likely(tally: Tally) -> bool:
            return tally.count >= self._minimum and expected(tally) >= self._chance * len(wanted)

        when = f"from {coming.hour} h" if self._hours is None else "in peak hours"
        for tally in best(tallies, limit, keep=is_likely, score=expected):
            yield WarmupCandidate(
                tally.request,
                expected(tally),
                f"asked {times(round(tally.weight))} {when} local time in {days:.0f} d, "
                f"{times(tally.count)} at any hour",
            )

    def _is_alike(self, hour: datetime, coming: datetime) -> bool:
        return not self._by_weekday or hour.weekday() == coming.weekday()


def _local(zone: tzinfo) -> Callable[[float], datetime]:
    """Return what gives the local hour in which most of an hour of activity lies.

    Activity is counted by hours of UTC, and some zones are half an hour beside it.
    """
    return lambda hour: datetime.fromtimestamp(hour + HOUR / 2, zone)


def _checked_hours(hours: Sequence[int]) -> frozenset[int]:
    good = isinstance(hours, list | tuple) and all(
        type(hour) is int and 0 <= hour <= 23 for hour in hours
    )
    if not good or not hours:
        raise InvalidOptions(
            f"The option 'hours' must be a list of hours of the day, 0 to 23, not {hours!r}."
        )
    return frozenset(hours)


def _checked_zone(name: str) -> tzinfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidOptions(
            f"The option 'zone' names {name!r}, which is no time zone; give one such as "
            f"Europe/Berlin, or leave it out for that of the schedule."
        ) from error
