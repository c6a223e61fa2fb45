"""Decides who belongs to which segment: off the request path, by one process at a time.

It looks at users with new activity, and at those whose age, recency or window has crossed a bound
(`SegmentMember.due`); at everyone only after a rule was changed. Every step is a short transaction,
and whatever was not done is found again from the rows, by whichever process goes on.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import DatabaseError, close_old_connections, models, transaction
from django.db.models import F, Q
from django.utils import timezone

from plugins import UserId
from serving_app.activity_models import ActivityCount
from serving_app.core.activity import REQUEST
from serving_app.core.segment_rules import Facts, Rule, choose
from serving_app.leased_row import LeaseLost
from serving_app.new_events import NewEvents
from serving_app.segment_conf import segment_settings
from serving_app.segment_facts import CHUNK, chunks, facts_of, parts_of, user_id
from serving_app.segment_models import Segment, SegmentEvaluation, SegmentMember

__all__ = ["Evaluated", "Evaluator", "rules"]

logger = logging.getLogger(__name__)

_LATE = timedelta(seconds=120)
"""How long after it happened a request may come into the database and still be looked at."""
_LONGEST = timedelta(days=1)
"""After which a user with activity is looked at again, whatever was overlooked."""
_FAR = timedelta(days=3650)
"""What may change so late is not planned for."""
_PRUNE_SECONDS = 300.0


@dataclass(slots=True)
class Evaluated:
    """What one pass did."""

    marked: int = 0
    """Users with new activity."""
    evaluated: int = 0
    moved: int = 0
    """Those of them that are in another segment now."""

    def __bool__(self) -> bool:
        return bool(self.marked or self.evaluated)


def rules() -> list[Rule]:
    """Return the rules of the enabled segments, in their order.

    One that cannot be read, which nothing that recserve writes is, holds for nobody.
    """
    read = []
    for segment in Segment.objects.filter(enabled=True).prefetch_related("conditions"):
        try:
            read.append(segment.rule())
        except ValueError:
            logger.exception("The rule of segment %s cannot be read", segment.name)
    return read


class Evaluator:
    """Evaluates for all processes, while it has the lease. One thread at a time calls it.

    Args:
        owner: The process, as others see it.
        now: The time, with its zone.
        moved: Called after members have changed, with their number; to tell processes at once.
    """

    def __init__(
        self,
        owner: str,
        *,
        now: Callable[[], datetime] = timezone.now,
        moved: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._owner = owner
        self._now = now
        self._moved = moved
        self._events = NewEvents()
        self._next_prune = -math.inf

    def evaluate(self, *, at_most: float = math.inf) -> Evaluated | None:
        """Bring members in line with activity and rules.

        Args:
            at_most: Seconds after which the rest is left for the next call.

        Returns:
            What was done; None: another process does it.

        Raises:
            DatabaseError: The database does not answer.
        """
        done = Evaluated()
        active = Segment.objects.filter(enabled=True).exists()
        if not active and not SegmentMember.objects.filter(segment__isnull=False).exists():
            return done  # nothing to decide: users are looked up when there is
        if not SegmentEvaluation.take(self._owner, self._now()):
            return None
        until = time.monotonic() + at_most
        try:
            done.marked = self._mark()
            while time.monotonic() < until:
                evaluated, moved = self._decide()
                done.evaluated += evaluated
                done.moved += moved
                if moved:
                    self._moved(moved)
                if not evaluated:
                    break
            if time.monotonic() >= self._next_prune:
                self._next_prune = time.monotonic() + _PRUNE_SECONDS
                prune(self._now())
        except LeaseLost:
            return None
        return done

    def release(self) -> None:
        """Let another process evaluate at once."""
        SegmentEvaluation.release(self._owner)

    def _hold(self, **changes: Any) -> SegmentEvaluation:
        """Change the row, if the lease is still ours; first in a transaction, which it orders."""
        return SegmentEvaluation.hold(self._owner, self._now(), **changes)

    # --- Who is to be looked at ---

    def _mark(self) -> int:
        """Note as due whoever has new activity; return how many they are."""
        state = SegmentEvaluation.objects.get(pk=1)
        return self._mark_events(state) + self._mark_requests(state)

    def _mark_events(self, state: SegmentEvaluation) -> int:
        marked = 0
        for end, users in self._events.after(state.event):
            with transaction.atomic():
                self._hold(event=end)
                marked += self._note(users)
        return marked

    def _mark_requests(self, state: SegmentEvaluation) -> int:
        now = self._now()
        rows = ActivityCount.objects.filter(kind=REQUEST)
        if state.looked is not None:
            since = state.looked - _LATE
            rows = rows.filter(last__gte=since, hour__gte=since - timedelta(hours=1))
        latest = (
            rows.order_by()
            .values_list("user", "user_is_number")
            .annotate(latest=models.Max("last"))
            .iterator(chunk_size=2000)
        )
        seen = {user_id(text, is_number): last for text, is_number, last in latest}
        marked = 0
        for some in chunks(seen):
            known = _members(some)
            fresh = [user for user in some if _is_news(known.get(user), seen[user])]
            with transaction.atomic():
                self._hold()
                marked += self._note(fresh)
        self._hold(looked=now)
        return marked

    def _note(self, users: Iterable[UserId]) -> int:
        """Make rows for users, due now; return how many they are."""
        now, noted = self._now(), 0
        for some in chunks(users):
            noted += len(some)
            known = _members(some)
            SegmentMember.objects.filter(pk__in=[row.pk for row in known.values()]).update(due=now)
            SegmentMember.objects.bulk_create(
                (_new(user, now) for user in some if user not in known), ignore_conflicts=True
            )
        return noted

    # --- Deciding ---

    def _decide(self) -> tuple[int, int]:
        """Decide about some of those who are due; return how many they were, and how many moved."""
        now = self._now()
        state = SegmentEvaluation.objects.get(pk=1)
        rows = _due(now, state.edited)
        if not rows:
            return 0, 0
        asked = rules()
        known = {row.user_id: row for row in rows}
        facts = facts_of(
            list(known), of_events=any(r.of_events for r in asked), known=known, now=now
        )
        moved = [
            row
            for user, row in known.items()
            if _decided(row, asked, facts.get(user), now, edited=state.edited)
        ]
        with transaction.atomic():
            state = self._hold(turn=F("turn") + 1) if moved else self._hold()
            for row in moved:
                row.turn, row.since = state.turn, now
            # Three times as quick as `bulk_update`, whose CASE grows with the rows.
            SegmentMember.objects.bulk_create(
                rows,
                update_conflicts=True,
                unique_fields=("user", "user_is_number"),
                update_fields=_DECIDED,
            )
        return len(rows), len(moved)


_DECIDED = ("segment", "since", "first_seen", "last_seen", "due", "edited", "turn")


def _due(now: datetime, edited: int) -> list[SegmentMember]:
    """Return some members whose segment is to be decided: those who have waited longest first."""
    rows = list(SegmentMember.objects.filter(due__lte=now).order_by("due")[:CHUNK])
    if len(rows) < CHUNK:
        there = {row.pk for row in rows}
        of_old = SegmentMember.objects.filter(edited__lt=edited).order_by("edited", "pk")
        rows += [row for row in of_old[:CHUNK] if row.pk not in there][: CHUNK - len(rows)]
    return rows


def _decided(
    row: SegmentMember, asked: Sequence[Rule], facts: Facts | None, now: datetime, *, edited: int
) -> bool:
    """Write into a row what the rules say of its user; return whether its segment is another."""
    segment, due = (None, math.inf) if facts is None else choose(asked, facts, now.timestamp())
    if facts is None:  # what was known has been deleted since
        row.first_seen = row.last_seen = row.last_seen or now
    else:
        row.first_seen = datetime.fromtimestamp(facts.first, UTC)
        row.last_seen = datetime.fromtimestamp(facts.last, UTC)
        if asked and (facts.counts or facts.deeds):
            due = min(due, (now + _LONGEST).timestamp())
    row.due = None if due > (now + _FAR).timestamp() else datetime.fromtimestamp(due, UTC)
    row.edited = edited
    moves = row.segment_id != segment
    row.segment_id = segment
    return moves


def _is_news(row: SegmentMember | None, at: datetime) -> bool:
    """Return whether a user was seen after its row was written."""
    return row is None or row.last_seen is None or row.last_seen < at


def _new(user: UserId, now: datetime) -> SegmentMember:
    text, is_number = parts_of(user)
    return SegmentMember(user=text, user_is_number=is_number, since=now, due=now)


def _members(users: Sequence[UserId]) -> dict[UserId, SegmentMember]:
    """Return the rows of some users, as many as one query takes."""
    rows = SegmentMember.objects.filter(user__in={str(user) for user in users})
    wanted = set(users)
    return {row.user_id: row for row in rows if row.user_id in wanted}


def prune(now: datetime) -> None:
    """Forget users who have been away longest, beyond as many as are remembered.

    Members leave their segment first, so that every process hears of it; the row goes later.
    """
    most = segment_settings().users
    for bound in SegmentMember.objects.exclude(last_seen=None).order_by("-last_seen", "-pk")[
        most : most + 1
    ]:
        beyond = SegmentMember.objects.filter(
            Q(last_seen__lt=bound.last_seen) | Q(last_seen=bound.last_seen, pk__lte=bound.pk)
        )
        with transaction.atomic():
            SegmentEvaluation.objects.filter(pk=1).update(turn=F("turn") + 1)
            turn = SegmentEvaluation.objects.get(pk=1).turn
            beyond.filter(segment__isnull=False).update(
                segment=None, since=now, turn=turn, due=None
            )
        beyond.filter(segment__isnull=True, since__lt=now - timedelta(minutes=10)).delete()


class EvaluationThread:
    """Does work every few seconds, until `stop`.

    Args:
        work: Returns whether there is more to do at once. It may take a second or so.
        release: Lets another process go on; called in the end.
        interval: Seconds between two calls.
    """

    def __init__(
        self, work: Callable[[], bool], release: Callable[[], None], interval: float
    ) -> None:
        self._work = work
        self._release = release
        self._interval = interval
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="segments", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look now: something has changed."""
        self._wake.set()

    def stop(self) -> None:
        """End, and let another process go on."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            more = False
            try:
                more = self._work()
            except DatabaseError as error:
                logger.warning("Segments and drift could not be looked at: %s", error)
            except Exception:  # whatever it is, the next pass may do better
                logger.exception("Segments and drift could not be looked at")
            finally:
                close_old_connections()
            self._wake.wait(0.05 if more else self._interval)
        try:
            self._release()
        except DatabaseError as error:
            logger.warning("The look at segments and drift could not be handed over: %s", error)
        finally:
            close_old_connections()
