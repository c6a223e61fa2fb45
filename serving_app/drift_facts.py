"""What drift is judged by: what users did and asked lately, and their segments."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import models

from plugins import Priority, RecommendationRequest, UserId
from serving_app.activity_conf import activity_settings
from serving_app.activity_models import ActivityCount, Event
from serving_app.core.activity import REQUEST
from serving_app.drift_conf import drift_settings
from serving_app.segment_facts import parts_of, user_id
from serving_app.segment_models import SegmentMember

__all__ = ["Deeds", "latest_deeds", "questions_of", "segments_of"]


@dataclass(slots=True)
class Deeds:
    """What a user did: its latest events."""

    deeds: deque[tuple[float, str, str, float | None]]
    ids: deque[int]


def latest_deeds(users: Sequence[UserId], now: datetime) -> dict[UserId, Deeds]:
    """Return the latest events of users."""
    wanted, most = set(users), drift_settings().events
    kept = now - timedelta(days=activity_settings().event_days)
    rows = (
        Event.objects.filter(user__in={str(user) for user in users}, at__gt=kept)
        .order_by("at", "id")
        .values_list("id", "user", "user_is_number", "at", "model", "item", "value")
    )
    done: dict[UserId, Deeds] = {}
    for number, text, is_number, at, model, item, value in rows.iterator(chunk_size=2000):
        user = user_id(text, is_number)
        if user in wanted:
            theirs = done.setdefault(user, Deeds(deque(maxlen=most), deque(maxlen=most)))
            theirs.deeds.append((at.timestamp(), model, item, value))
            theirs.ids.append(number)
    return done


def segments_of(users: Sequence[UserId]) -> dict[UserId, int]:
    """Return the segments of those users that are in one."""
    rows = SegmentMember.objects.filter(
        user__in={str(user) for user in users}, segment__isnull=False
    )
    found = {row.user_id: row.segment_id for row in rows}
    return {user: n for user in users if (n := found.get(user)) is not None}


def questions_of(user: UserId, most: int) -> list[RecommendationRequest]:
    """Return what a user asked lately, as requests that make the same cache keys."""
    text, is_number = parts_of(user)
    rows = (
        ActivityCount.objects.filter(
            user=text, user_is_number=is_number, kind=REQUEST, own_features=False
        )
        .order_by()
        .values_list("model", "alias", "context")
        .annotate(latest=models.Max("last"))
        .order_by("-latest")[:most]
    )
    return [
        RecommendationRequest(
            user_id=user,
            model_name=model,
            alias=alias,
            context=json.loads(context),
            priority=Priority.WARM_UP,  # computing in advance is no activity of the user's
        )
        for model, alias, context, _ in rows
    ]
