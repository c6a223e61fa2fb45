"""Watches whether users' preferences change, and forgets or renews their answers if they do.

Off the request path, by one process at a time: it looks at users with new events, makes their
profiles from their latest events anew, and asks the drift rule of their segment. So whatever is
looked at twice comes to the same.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from cache_app.core.generations import scope
from cache_app.invalidation import invalidate_scopes
from plugins import DriftCase, DriftRule, DriftVerdict, RecommendationRequest, UserId
from plugins.apps import get_registry
from serving_app.core.profiles import Profile, feature_profile, profile_of
from serving_app.core.segment_table import EVERYONE
from serving_app.drift_conf import drift_settings
from serving_app.drift_facts import Deeds, latest_deeds, questions_of, segments_of
from serving_app.drift_models import DriftDecision, DriftProgress, UserProfile
from serving_app.leased_row import LeaseLost
from serving_app.new_events import NewEvents, latest_event
from serving_app.segment_facts import chunks, parts_of
from serving_app.segment_models import Segment

__all__ = ["DriftWatch", "Judged", "Terms", "prune_drift"]

logger = logging.getLogger(__name__)

Terms = Callable[[str, str], Mapping[str, float] | None]
"""Returns the terms of a model's item; None: they are not known here yet."""

_PRUNE_SECONDS = 300.0
_LONGEST_REASON = 300
_RENEWED = 100
"""Users who are renewed in one go; the others are with the next."""


@dataclass(slots=True)
class _Outcome:
    """What a batch of users came to."""

    profiles: list[UserProfile] = field(default_factory=list)
    decisions: list[DriftDecision] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Judged:
    """What was decided of one user."""

    action: str
    distance: float
    reason: str
    segment: str


@dataclass(frozen=True, slots=True)
class _Rule:
    """The rule of a segment's users."""

    segment: str
    name: str
    rule: DriftRule


class DriftWatch:
    """Watches for all processes, while it has the lease. One thread at a time calls `watch`.

    Args:
        owner: The process, as others see it.
        terms: What items are about.
        renew: Computes answers anew, in the background of whatever else is computed.
        now: The time, with its zone.
    """

    def __init__(
        self,
        owner: str,
        *,
        terms: Terms,
        renew: Callable[[Sequence[RecommendationRequest]], None],
        now: Callable[[], datetime] = timezone.now,
    ) -> None:
        self._owner = owner
        self._terms = terms
        self._renew = renew
        self._now = now
        self._events = NewEvents()
        self._rules: dict[tuple[str, str], DriftRule] = {}
        self._to_renew: deque[UserId] = deque(maxlen=10_000)
        self._next_prune = -math.inf
        self._counts: Counter[tuple[str, str]] = Counter()
        self._counting = threading.Lock()

    def watch(self, *, at_most: float = math.inf) -> int | None:
        """Judge users with new events.

        Args:
            at_most: Seconds after which the rest is left for the next call.

        Returns:
            How many were judged; None: another process watches.

        Raises:
            DatabaseError: The database does not answer.
        """
        self._renew_some()
        rules = self._rules_by_segment()
        if not rules:
            return 0
        state = DriftProgress.row()
        if state.event is not None and latest_event() <= state.event:
            return 0
        if not DriftProgress.take(self._owner, self._now()):
            return None
        judged, until = 0, time.monotonic() + at_most
        try:
            if state.event is None:  # what was before is what users are compared with
                DriftProgress.hold(self._owner, self._now(), event=latest_event())
                return 0
            for end, users in self._events.after(state.event):
                for some in chunks(users):
                    self._judge_some(some, rules, after=state.event)
                    judged += len(some)
                DriftProgress.hold(self._owner, self._now(), event=end)
                if time.monotonic() >= until:
                    break
            if time.monotonic() >= self._next_prune:
                self._next_prune = time.monotonic() + _PRUNE_SECONDS
                prune_drift()
        except LeaseLost:
            return None
        self._renew_some()
        return judged

    def counts(self) -> dict[tuple[str, str], int]:
        """Return what this process decided, by segment and action."""
        with self._counting:
            return dict(self._counts)

    def _count(self, counts: Counter[tuple[str, str]]) -> None:
        with self._counting:
            self._counts.update(counts)

    def release(self) -> None:
        """Let another process watch at once."""
        DriftProgress.release(self._owner)

    def judge_features(self, user: UserId, features: Mapping[str, float]) -> Judged:
        """Compare a new feature vector of a user with the one at its last refresh.

        Any thread calls it, for whichever process; what is to be renewed is by the next `watch`.
        """
        text, is_number = parts_of(user)
        rules = self._rules_by_segment()
        segment = segments_of([user]).get(user)
        rule = rules.get(segment) or rules.get(None)
        now, vector = self._now(), feature_profile(features)
        with transaction.atomic():
            row, new = UserProfile.objects.select_for_update().get_or_create(
                user=text,
                user_is_number=is_number,
                source="features",
                defaults={
                    "before": vector,
                    "now": vector,
                    "refreshed": now,
                    "judged": now,
                    "reason": "the first that is known",
                },
            )
            if new or rule is None:
                where = EVERYONE if rule is None else rule.segment
                return Judged("keep", 0.0, row.reason or "there is no rule", where)
            row.events += 1
            outcome = _Outcome()
            verdict = self._judge(row, vector, rule, outcome)
            outcome.profiles.append(row)
            self._write(outcome)
        self._count(outcome.counts)
        return Judged(verdict.action, verdict.distance, verdict.reason, rule.segment)

    # --- Rules ---

    def _rules_by_segment(self) -> dict[int | None, _Rule]:
        """Return the rule of each segment's users; None: of everyone else."""
        settings = drift_settings()
        found: dict[int | None, _Rule] = {}
        if settings.rule is not None:
            self._add(found, None, EVERYONE, settings.rule, settings.options)
        for row in Segment.objects.filter(enabled=True):
            name = row.drift_rule or settings.rule
            if name is None:
                continue
            own = row.drift_rule or row.drift_options
            options = row.drift_options if own else settings.options
            self._add(found, row.pk, row.name, name, options)
        return found

    def _add(
        self,
        found: dict[int | None, _Rule],
        segment: int | None,
        label: str,
        name: str,
        options: Mapping[str, Any],
    ) -> None:
        key = name, json.dumps(dict(options), sort_keys=True, default=str)
        try:
            if key not in self._rules:
                self._rules[key] = get_registry().drift_rules.create(name, options)
        except Exception:  # a plugin's, or its options: the others go on
            logger.exception("The drift rule of segment %s cannot be made", label)
            return
        found[segment] = _Rule(label, name, self._rules[key])

    # --- Judging ---

    def _judge_some(
        self, users: Sequence[UserId], rules: Mapping[int | None, _Rule], *, after: int
    ) -> None:
        """Judge some users with new events, and do what is decided, in one transaction."""
        done = latest_deeds(users, self._now())
        segments = segments_of(users)
        texts = {str(user) for user in users}
        rows = {
            row.user_id: row for row in UserProfile.objects.filter(user__in=texts, source="events")
        }
        outcome = _Outcome()
        for user, theirs in done.items():
            rule = rules.get(segments.get(user)) or rules.get(None)
            row = rows.get(user)
            if rule is None or (row is not None and row.latest >= max(theirs.ids)):
                continue
            profile = self._profile(list(theirs.deeds))
            if profile is None:
                continue
            if row is None:
                row = self._first(user, theirs, after)
                if row is None:
                    continue
            row.latest = max(theirs.ids)
            row.events = sum(number > row.event for number in theirs.ids)
            if not row.events:  # it is all there was when it was seen first
                row.now, row.judged = profile, self._now()
                row.reason = "the first that is known"
                outcome.counts[rule.segment, "keep"] += 1
            else:
                self._judge(row, profile, rule, outcome)
            outcome.profiles.append(row)
        with transaction.atomic():
            DriftProgress.hold(self._owner, self._now())
            self._write(outcome)
        self._count(outcome.counts)

    def _first(self, user: UserId, theirs: Deeds, after: int) -> UserProfile | None:
        """Return a profile of a user that had none: as it was before the new events."""
        known = [
            deed for deed, number in zip(theirs.deeds, theirs.ids, strict=True) if number <= after
        ]
        before = self._profile(known or list(theirs.deeds))
        if before is None:
            return None
        text, is_number = parts_of(user)
        return UserProfile(
            user=text,
            user_is_number=is_number,
            source="events",
            before=before,
            event=after if known else max(theirs.ids),
            refreshed=self._now(),
        )

    def _profile(self, deeds: Sequence[tuple[float, str, str, float | None]]) -> Profile | None:
        """Return the profile of what was done; None: what it is about is not known here yet."""
        known: dict[str, Mapping[str, float]] = {}
        for _, model, item, _ in deeds:
            terms = self._terms(model, item)
            if terms is None:
                return None
            known[item] = terms
        return profile_of(
            [(at, item, value) for at, _, item, value in deeds],
            known.__getitem__,
            half_life=drift_settings().half_life_days,
        )

    def _judge(
        self, row: UserProfile, profile: Profile, rule: _Rule, outcome: _Outcome
    ) -> DriftVerdict:
        """Ask the rule, and write into the row and the outcome what it says."""
        now = self._now()
        case = DriftCase(
            before=dict(row.before),
            now=dict(profile),
            events=row.events,
            seconds=max(0.0, (now - row.refreshed).total_seconds()),
            suspected=row.suspected,
            source=_source(row),
        )
        registry = get_registry()
        part = registry.part("drift_rules", rule.name)
        try:
            if registry.failures.is_off(*part):
                verdict = DriftVerdict("keep", 0.0, f"the rule {rule.name} is switched off")
            else:
                verdict = rule.rule.judge(case)
        except Exception as error:  # noqa: BLE001  (a plugin's; it is counted and logged)
            registry.failures.note(*part, error)
            verdict = DriftVerdict("keep", 0.0, f"the rule {rule.name} failed")
            outcome.counts[rule.segment, "failed"] += 1
        else:
            outcome.counts[rule.segment, verdict.action] += 1
        row.now, row.judged, row.distance = profile, now, verdict.distance
        row.reason = verdict.reason[:_LONGEST_REASON]
        row.suspected = row.suspected + 1 if verdict.suspects else 0
        if verdict.action == "keep":
            return verdict
        outcome.decisions.append(
            DriftDecision(
                user=row.user,
                user_is_number=row.user_is_number,
                source=row.source,
                at=now,
                segment=rule.segment,
                rule=rule.name,
                action=verdict.action,
                distance=verdict.distance,
                events=row.events,
                reason=row.reason,
            )
        )
        row.before, row.event, row.events = profile, max(row.event, row.latest), 0
        row.suspected, row.refreshed = 0, now
        return verdict

    def _write(self, outcome: _Outcome) -> None:
        """Write what was found, and invalidate whom it concerns. In a transaction."""
        UserProfile.objects.bulk_create(
            outcome.profiles,
            update_conflicts=True,
            unique_fields=("user", "user_is_number", "source"),
            update_fields=_WRITTEN,
        )
        DriftDecision.objects.bulk_create(outcome.decisions)
        changed = {row.user_id: row.action for row in outcome.decisions}
        if not changed:
            return
        invalidate_scopes([scope(user_id=user) for user in changed])
        renewed = [user for user, action in changed.items() if action == "refresh"]
        transaction.on_commit(lambda: self._to_renew.extend(renewed))

    # --- Renewing ---

    def _renew_some(self) -> None:
        for _ in range(min(_RENEWED, len(self._to_renew))):
            user = self._to_renew.popleft()
            try:
                self._renew(questions_of(user, drift_settings().questions))
            except Exception:  # they are forgotten all the same, and computed when they are asked
                logger.exception("The answers of a user whose taste changed were not renewed")


_WRITTEN = [
    *("before", "now", "event", "latest", "events", "suspected", "refreshed", "judged"),
    *("distance", "reason"),
]


def _source(row: UserProfile) -> Literal["events", "features"]:
    return "features" if row.source == "features" else "events"


def prune_drift() -> None:
    """Delete the oldest profiles and decisions of what is too much."""
    settings = drift_settings()
    for rows, by, most in (
        (UserProfile.objects.all(), "judged", settings.profiles),
        (DriftDecision.objects.all(), "at", settings.decisions),
    ):
        for value, pk in rows.order_by(f"-{by}", "-pk").values_list(by, "pk")[most : most + 1]:
            rows.filter(Q(**{f"{by}__lt": value}) | Q(**{by: value, "pk__lte": pk})).delete()
