"""The segments of users, as the request path needs them: one look into a dict."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from cache_app.core.freshness import Freshness
from plugins import UserId

__all__ = ["EVERYONE", "SegmentPlan", "SegmentTable", "SegmentTerms"]

EVERYONE = "all"
"""The segment of users that are in no other."""


@dataclass(frozen=True, slots=True)
class SegmentTerms:
    """What a segment gives its users."""

    name: str
    freshness: Freshness | None = None
    """How long their answers are fresh; None: as everyone's."""
    alias: str = ""
    """The alias that answers those who ask for none, of models that have it; empty: as everyone."""


class SegmentPlan:
    """The terms of one segment, which all its members share, so that one assignment changes them.

    A request reads ``terms`` once.
    """

    __slots__ = ("terms",)

    def __init__(self, terms: SegmentTerms) -> None:
        self.terms = terms


class SegmentTable:
    """Users' segments. Any thread looks up; changes are made by one at a time.

    Users that it does not know are in no segment of their own.

    Args:
        capacity: How many users it holds at most. Further ones are not held.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._users: dict[UserId, SegmentPlan] = {}
        self._plans: dict[int, SegmentPlan] = {}
        self._lock = threading.Lock()
        self.refused = 0
        """Users for whom there was no room."""
        self.plan_of: Callable[[UserId], SegmentPlan | None] = self._users.get
        """Returns a user's plan, or None; a dict's own method, as every request calls it."""

    def __len__(self) -> int:
        return len(self._users)

    @property
    def segments(self) -> Mapping[int, SegmentTerms]:
        """The terms by the segment's number."""
        return {number: plan.terms for number, plan in self._plans.items()}

    def define(self, segments: Mapping[int, SegmentTerms]) -> list[int]:
        """Take over what the segments are now; members of those that are no more are in none.

        Returns:
            The segments that are new, whose members are not known yet.
        """
        with self._lock:
            gone = {id(self._plans.pop(n)) for n in self._plans.keys() - segments.keys()}
            new = list(segments.keys() - self._plans.keys())
            for number, terms in segments.items():
                plan = self._plans.get(number)
                if plan is None:
                    self._plans[number] = SegmentPlan(terms)
                elif plan.terms != terms:
                    plan.terms = terms
            if gone:
                for user in [user for user, plan in self._users.items() if id(plan) in gone]:
                    del self._users[user]
        return new

    def move(self, users: Iterable[tuple[UserId, int | None]]) -> None:
        """Put users into segments; None, or a segment that is not defined: into none."""
        with self._lock:
            for user, number in users:
                plan = None if number is None else self._plans.get(number)
                if plan is None:
                    self._users.pop(user, None)
                elif user in self._users or len(self._users) < self._capacity:
                    self._users[user] = plan
                else:
                    self.refused += 1
