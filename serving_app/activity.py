"""Who asked for what lately: the ground of warming, segments and analysis.

A request only puts what it asked into a bounded queue. The reconciler's thread counts what waits
there by the hour, and adds the counts to the database every few seconds; so they are summed over
all processes, whichever of them has ended since.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import (
    DatabaseError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    models,
    router,
    transaction,
)
from django.db.models import Q
from django.utils import timezone

from plugins import RecommendationRequest, UserId
from serving_app.activity_conf import ActivitySettings, activity_settings
from serving_app.activity_models import ActivityCount, Event
from serving_app.core.activity import (
    REQUEST,
    ActivityCounts,
    Asked,
    Counted,
    NewEvent,
    context_text,
    hour_of,
    storable,
    visits,
)

__all__ = ["ActivityLog", "Recorded", "add_counts", "prune", "record_events"]

logger = logging.getLogger(__name__)

_PRUNE_SECONDS = 300.0
_STATEMENT = 500
"""Rows written by one statement."""
_TRIES = 5
_Waiting = tuple[str, str, UserId, Mapping[str, Any], bool, float, bool]


class ActivityLog:
    """Counts the requests of this process. Any thread tells; one at a time flushes.

    Args:
        settings: The settings of activity.
        written: Called with what was added to the database, after that.
        clock: Unix seconds.
        monotonic: Monotonic seconds.
    """

    def __init__(
        self,
        settings: ActivitySettings,
        *,
        written: Callable[[Mapping[Asked, Counted]], object] = len,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._tell_written = written
        self._clock = clock
        self._monotonic = monotonic
        self._waiting: deque[_Waiting] = deque()
        self._room = settings.waiting
        self._counts = ActivityCounts(settings.counted)
        self._flushing = threading.Lock()
        self._dropping = threading.Lock()
        self._written = monotonic()
        self._pruned = monotonic()
        self.dropped = 0
        """Requests that were not counted: too many came at once, or one's user or context cannot be
        kept."""

    def asked(self, request: RecommendationRequest, hit: bool = False) -> None:
        """Take note of a request that was answered. Takes well under a microsecond.

        Args:
            request: What was asked.
            hit: Whether the cache had a fresh answer.
        """
        self.asked_of(
            *(request.model_name, request.alias, request.user_id, request.context),
            *(request.features is not None, hit),
        )

    def asked_of(  # noqa: PLR0917  (the shortest call)
        self,
        model_name: str,
        alias: str,
        user_id: UserId,
        context: Mapping[str, Any],
        own_features: bool,
        hit: bool,
        /,
    ) -> None:
        """Do what `asked` does, with what it takes of the request."""
        waiting = self._waiting
        if len(waiting) >= self._room:
            self._drop(1)
            return
        waiting.append((model_name, alias, user_id, context, own_features, self._clock(), hit))

    def flush(self, *, at_once: bool = False) -> None:
        """Count what waits; every few seconds, or ``at_once``, add the counts to the database.

        A database that does not take them gets them later; as many are kept as there is room for.
        """
        with self._flushing:
            self._count()
            now = self._monotonic()
            if not at_once and now - self._written < self._settings.flush_seconds:
                return
            self._written = now
            taken = self._counts.take()
            try:
                add_counts(taken)
            except (OperationalError, InterfaceError) as error:
                self._drop(self._counts.merge(taken))
                logger.warning("Activity could not be written, and is kept for later: %s", error)
                return
            except (DatabaseError, ValueError) as error:  # it will not take them later, either
                self._drop(sum(counted.count for counted in taken.values()))
                logger.warning("Activity could not be written, and is lost: %s", error)
                return
            self._tell_written(taken)
            if now - self._pruned >= _PRUNE_SECONDS:
                self._pruned = now
                prune()

    def _count(self) -> None:
        longest = self._settings.max_context_bytes
        for _ in range(len(self._waiting)):  # what comes meanwhile has time until the next pass
            model, alias, user, context, own, at, hit = self._waiting.popleft()
            try:
                text = context_text(context)
            except (TypeError, ValueError, OverflowError):
                self._drop(1)
                continue
            fits = len(text.encode()) <= longest and storable(user)
            question = Asked(hour_of(at), REQUEST, model, alias, user, text, own)
            if not fits or not self._counts.add(question, at, hit=at if hit else 0.0):
                self._drop(1)

    def _drop(self, n: int) -> None:
        with self._dropping:
            self.dropped += n


def add_counts(counts: Mapping[Asked, Counted]) -> None:
    """Add counts to those in the database, in one transaction.

    Raises:
        DatabaseError: The database does not take them; none is added.
    """
    if not counts:
        return
    # In one order, so that two processes that add to the same rows never wait for each other.
    rows = sorted((asked.digest(), asked, counted) for asked, counted in counts.items())
    alias = router.db_for_write(ActivityCount)
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        for start in range(0, len(rows), _STATEMENT):
            part = rows[start : start + _STATEMENT]
            cursor.execute(*_upsert(connections[alias], [_row(*each) for each in part]))


def _row(digest: str, asked: Asked, counted: Counted) -> ActivityCount:
    return ActivityCount(
        digest=digest,
        hour=datetime.fromtimestamp(asked.hour, UTC),
        kind=asked.kind,
        model=asked.model,
        alias=asked.alias,
        user=str(asked.user),
        user_is_number=isinstance(asked.user, int),
        context=asked.context,
        own_features=asked.own_features,
        count=counted.count,
        last=datetime.fromtimestamp(counted.last, UTC),
    )


def _upsert(connection: Any, rows: Sequence[ActivityCount]) -> tuple[str, list[Any]]:
    """Return the statement that adds rows to those there are, in the SQL of SQLite and PostgreSQL.

    Django's own upsert replaces a value, and cannot add to it.
    """
    name = connection.ops.quote_name
    meta = ActivityCount._meta  # noqa: SLF001  (public, in spite of its name)
    table, fields = name(meta.db_table), meta.concrete_fields
    columns = ", ".join(name(field.column) for field in fields)
    place = f"({', '.join(['%s'] * len(fields))})"
    count, last = name("count"), name("last")
    sql = (
        f"INSERT INTO {table} ({columns}) VALUES {', '.join([place] * len(rows))} "  # noqa: S608  (its own names)
        f"ON CONFLICT ({name('digest')}) DO UPDATE SET {count} = {table}.{count} + excluded.{count}"
        f", {last} = CASE WHEN excluded.{last} > {table}.{last} THEN excluded.{last} "
        f"ELSE {table}.{last} END"
    )
    values = [
        field.get_db_prep_save(getattr(row, field.attname), connection)
        for row in rows
        for field in fields
    ]
    return sql, values


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of events."""

    recorded: int
    repeated: int
    """Those whose id was known already."""


def record_events(events: Iterable[NewEvent]) -> Recorded:
    """Record events, all or none, and count them as activity of their models.

    An event whose id was recorded before is not recorded, and not counted, again: whoever does not
    know whether a call succeeded repeats it.

    Raises:
        DatabaseError: The database does not take them; none is recorded.
    """
    given = list(events)
    for left in reversed(range(_TRIES)):
        try:
            return _record(given)
        except IntegrityError:  # another process has just recorded one of these ids
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


def _record(given: Sequence[NewEvent]) -> Recorded:
    with transaction.atomic(using=router.db_for_write(Event)):
        ids = [event.id for event in given if event.id is not None]
        known: set[str | None] = set()
        for start in range(0, len(ids), _STATEMENT):
            some = Event.objects.filter(event_id__in=ids[start : start + _STATEMENT])
            known.update(some.values_list("event_id", flat=True))
        fresh: list[NewEvent] = []
        for event in given:
            if event.id is None:
                fresh.append(event)
            elif event.id not in known:
                known.add(event.id)
                fresh.append(event)
        Event.objects.bulk_create(
            [
                Event(
                    event_id=event.id,
                    at=datetime.fromtimestamp(event.at, UTC),
                    kind=event.kind,
                    model=event.model,
                    user=str(event.user),
                    user_is_number=isinstance(event.user, int),
                    item=event.item,
                    value=event.value,
                )
                for event in fresh
            ],
            batch_size=_STATEMENT,
        )
        add_counts(visits(fresh))
    return Recorded(len(fresh), len(given) - len(fresh))


def prune() -> None:
    """Delete what is older than it may be, and the oldest of what is too much."""
    settings = activity_settings()
    now = timezone.now()
    try:
        ActivityCount.objects.filter(hour__lt=now - timedelta(days=settings.days)).delete()
        Event.objects.filter(at__lt=now - timedelta(days=settings.event_days)).delete()
        _cut(ActivityCount.objects.all(), "hour", settings.rows)
        _cut(Event.objects.all(), "at", settings.event_rows)
    except DatabaseError as error:
        logger.warning("Old activity could not be deleted: %s", error)


def _cut(rows: models.QuerySet[Any], by: str, most: int) -> None:
    """Leave only the newest rows."""
    for value, pk in rows.order_by(f"-{by}", "-pk").values_list(by, "pk")[most : most + 1]:
        rows.filter(Q(**{f"{by}__lt": value}) | Q(**{by: value, "pk__lte": pk})).delete()
