"""What a rule would select now, before anybody is moved by it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import F
from django.db.models.functions import Mod
from django.utils import timezone

from plugins import UserId
from serving_app.activity_models import ActivityCount, Event
from serving_app.core.activity import REQUEST
from serving_app.core.segment_rules import Condition, Facts, Rule, choose
from serving_app.core.segment_table import EVERYONE
from serving_app.segment_evaluation import rules
from serving_app.segment_facts import chunks, facts_of, user_id
from serving_app.segment_models import Segment, SegmentMember

__all__ = ["Overlap", "Selected", "Simulation", "simulate"]

MOST = 10_000
"""Users that are looked at; of more, these are an even sample."""
SECONDS = 10.0
"""After which the rest is left out."""
SAMPLE = 20
"""Users that are shown."""
_THIS = 0
"""Stands for the segment that is tried; rows begin with 1."""


@dataclass(frozen=True, slots=True)
class Selected:
    """A user whom the rule selects."""

    user: UserId
    segment: str
    """Where it is by the rules of today."""
    requests: int
    first_seen: datetime
    last_seen: datetime


@dataclass(slots=True)
class Overlap:
    """What the rule has in common with a segment's."""

    segment: str
    selected: int = 0
    """Users whom both select."""
    first: bool = False
    """Whether that segment comes first, and takes them."""


@dataclass(slots=True)
class Simulation:
    """What a rule would select."""

    known: int = 0
    """Users that are known."""
    looked_at: int = 0
    """Users among them that were looked at."""
    selected: int = 0
    """Of those: for whom the rule holds."""
    taken: int = 0
    """Of those: whom no earlier segment takes."""
    leaving: Counter[str] = field(default_factory=Counter)
    """Whom it takes, by the segment that they are in today."""
    overlaps: list[Overlap] = field(default_factory=list)
    sample: list[Selected] = field(default_factory=list)

    @property
    def estimate(self) -> int:
        """About how many of all that are known it would take."""
        return round(self.taken * self.known / self.looked_at) if self.looked_at else 0


def simulate(
    conditions: Sequence[Condition], *, order: int, name: str = "", replaces: int | None = None
) -> Simulation:
    """Return what a rule would select now. It changes nothing.

    Args:
        conditions: The rule.
        order: Where it would stand among the segments.
        name: Its segment's, which decides among those of the same order.
        replaces: The segment whose rule it would be; None: a new one's.

    Raises:
        DatabaseError: The database does not answer.
    """
    now = timezone.now()
    users, known = _users()
    there = {row.pk: row for row in Segment.objects.filter(enabled=True)}
    today = rules()
    others = [rule for rule in today if rule.segment != replaces]
    before = [r for r in others if _place(there[r.segment]) < (order, name)]
    tried = [*before, Rule(_THIS, tuple(conditions)), *others[len(before) :]]
    of_events = any(rule.of_events for rule in (*tried, *today))
    done = Simulation(known=known)
    done.overlaps = [
        Overlap(there[rule.segment].name, first=rule in before)
        for rule in others  # in their order
    ]
    trial = _Trial(tried, others, done, now.timestamp())
    until = time.monotonic() + SECONDS
    for some in chunks(users):
        rows = SegmentMember.objects.filter(user__in={str(user) for user in some})
        members = {row.user_id: row for row in rows if row.user_id in set(some)}
        facts = facts_of(some, of_events=of_events, known=members, now=now)
        for user, fact in facts.items():
            is_in, _ = choose(today, fact, now.timestamp())
            segment = EVERYONE if is_in is None else there[is_in].name
            trial.look_at(user, fact, segment)
        if time.monotonic() >= until:
            break
    return done


class _Trial:
    """Compares users with the rule that is tried, and with those there are.

    Args:
        tried: All rules, with the one that is tried at its place.
        others: All but that one.
        done: What is found goes here.
        now: Unix seconds.
    """

    def __init__(
        self, tried: Sequence[Rule], others: Sequence[Rule], done: Simulation, now: float
    ) -> None:
        self._tried = tried
        self._mine = next(rule for rule in tried if rule.segment == _THIS)
        self._others = others
        self._done = done
        self._now = now

    def look_at(self, user: UserId, facts: Facts, segment: str) -> None:
        """Add one user, of a segment, to what has been found."""
        done, now = self._done, self._now
        done.looked_at += 1
        if not self._mine.holds(facts, now):
            return
        done.selected += 1
        for overlap, rule in zip(done.overlaps, self._others, strict=True):
            overlap.selected += rule.holds(facts, now)
        if choose(self._tried, facts, now)[0] != _THIS:
            return
        done.taken += 1
        done.leaving[segment] += 1
        if len(done.sample) < SAMPLE:
            zone = timezone.get_current_timezone()
            requests = sum(each.n for each in facts.counts if each.kind == REQUEST)
            seen = (datetime.fromtimestamp(at, zone) for at in (facts.first, facts.last))
            done.sample.append(Selected(user, segment, requests, *seen))


def _place(segment: Segment) -> tuple[int, str]:
    return segment.order, segment.name


def _users() -> tuple[list[UserId], int]:
    """Return users to look at, and how many are known."""
    rows = SegmentMember.objects.order_by()
    known = rows.count()
    if known:
        every = -(-known // MOST)
        some = rows.annotate(place=Mod(F("pk"), every)).filter(place=0) if every > 1 else rows
        names = some.values_list("user", "user_is_number")[:MOST]
        return [user_id(*each) for each in names], known
    users: dict[UserId, None] = {}  # nobody has been looked at, as there was no segment
    for source in (ActivityCount, Event):
        active = source.objects.order_by().values_list("user", "user_is_number").distinct()
        for each in active[: MOST - len(users)]:
            users[user_id(*each)] = None
    return list(users), len(users)
