"""When something is due: by cron or by an interval, in a time zone."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

__all__ = ["SHORTEST", "check_cron", "next_time", "zone_of"]

SHORTEST = 10.0
"""Seconds: the shortest interval."""


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone of this name.

    Raises:
        ValueError: There is none.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # no such key, no name, a folder's name
        raise ValueError(
            f"There is no time zone {name!r}; give a name such as UTC or Europe/Berlin."
        ) from error


def check_cron(text: str) -> None:
    """Return if the text says when.

    Raises:
        ValueError: It does not; the message says why.
    """
    if len(text.split()) != 5:
        raise ValueError(
            f"{text!r} has not five fields: minute, hour, day of the month, month, day of the "
            "week, such as '30 5 * * 1-5'."
        )
    try:
        next(CronSim(text, datetime(2026, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f"{text!r} is no cron expression: {str(error).lower()}.") from error
    except StopIteration as error:
        raise ValueError(f"{text!r} names a day that never comes.") from error


def next_time(
    after: datetime,
    *,
    cron: str = "",
    interval: float | None = None,
    zone: str = "UTC",
    last: datetime | None = None,
) -> datetime | None:
    """Return the first time after an instant at which it is due, in UTC; None: never by itself.

    What was missed is over: however many times lie before ``after``, the next one is after it.

    A cron time goes by the clock on the wall: as Debian's cron does, one that a change to summer
    time leaves out is due right after it, and one in an hour that comes twice is due once.

    Args:
        after: The instant, aware of its zone.
        cron: A cron expression of five fields; empty: none.
        interval: Seconds; None: none. Cron goes first.
        zone: The name of the zone in which cron is meant.
        last: When it was due last, so that an interval keeps its step; None: now.
    """
    if cron:
        try:
            return next(CronSim(cron, after.astimezone(zone_of(zone)))).astimezone(UTC)
        except StopIteration:
            return None
    if interval is None:
        return None
    start = after if last is None else last
    steps = math.floor(max(0.0, (after - start).total_seconds()) / interval) + 1
    return (start + timedelta(seconds=steps * interval)).astimezone(UTC)
