"""What the database knows of users, as rules look at it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from django.db.models import Max, Min, Sum

from plugins import UserId
from serving_app.activity_conf import activity_settings
from serving_app.activity_models import ActivityCount, Event
from serving_app.core.segment_rules import Counts, Deed, Facts
from serving_app.segment_models import SegmentMember

__all__ = ["chunks", "facts_of", "parts_of", "user_id"]

CHUNK = 200
"""Users that are looked at together."""


def parts_of(user: UserId) -> tuple[str, bool]:
    """Return a user as the database has it."""
    return str(user), isinstance(user, int)


def user_id(text: str, is_number: bool) -> UserId:
    """Return a user as it asks."""
    return int(text) if is_number else text


def chunks(users: Iterable[UserId], size: int = CHUNK) -> Iterator[list[UserId]]:
    """Return users in lists that one query takes."""
    some: list[UserId] = []
    for user in users:
        some.append(user)
        if len(some) >= size:
            yield some
            some = []
    if some:
        yield some


def facts_of(
    users: Sequence[UserId],
    *,
    of_events: bool,
    known: Mapping[UserId, SegmentMember],
    now: datetime,
) -> dict[UserId, Facts]:
    """Return what is known of some users, those left out of whom nothing is.

    Args:
        users: As many as one query takes.
        of_events: Whether rules look at single events, which are not read otherwise.
        known: Their rows, which remember when they were seen first, after activity has gone.
        now: The time.
    """
    wanted = set(users)
    texts = {str(user) for user in users}
    counts: dict[UserId, list[Counts]] = defaultdict(list)
    seen: dict[UserId, list[datetime]] = defaultdict(list)
    for user, row in known.items():
        seen[user] += [at for at in (row.first_seen, row.last_seen) if at is not None]
    kept = now - timedelta(days=activity_settings().days)
    grouped = (
        ActivityCount.objects.filter(user__in=texts, hour__gt=kept)
        .order_by()
        .values_list("user", "user_is_number", "kind", "hour")
        .annotate(n=Sum("count"), latest=Max("last"))
    )
    for text, is_number, kind, hour, n, latest in grouped:
        user = user_id(text, is_number)
        if user in wanted:
            counts[user].append(Counts(kind, hour.timestamp(), n))
            seen[user] += (hour, latest)
    deeds = _deeds(texts, wanted, seen, of_events=of_events, now=now)
    return {
        user: Facts(
            min(times).timestamp(),
            max(times).timestamp(),
            counts.get(user, ()),
            deeds.get(user, ()),
        )
        for user, times in seen.items()
        if times
    }


def _deeds(
    texts: Collection[str],
    wanted: Collection[UserId],
    seen: dict[UserId, list[datetime]],
    *,
    of_events: bool,
    now: datetime,
) -> Mapping[UserId, Sequence[Deed]]:
    """Return users' events, and note when they were seen."""
    deeds: dict[UserId, list[Deed]] = defaultdict(list)
    kept = now - timedelta(days=activity_settings().event_days)
    events = Event.objects.filter(user__in=texts, at__gt=kept).order_by()
    if not of_events:
        spans = events.values_list("user", "user_is_number").annotate(a=Min("at"), b=Max("at"))
        for text, is_number, first, last in spans:
            if (user := user_id(text, is_number)) in wanted:
                seen[user] += (first, last)
        return deeds
    rows = events.values_list("user", "user_is_number", "at", "item", "value")
    for text, is_number, at, item, value in rows.iterator(chunk_size=2000):
        if (user := user_id(text, is_number)) in wanted:
            deeds[user].append(Deed(at.timestamp(), item, value))
            seen[user] += (at,)
    return deeds
