"""Who usually comes next."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from plugins.contracts import UserId
from plugins.warmup.option_checks import DAY, HOUR, MINUTE, at_least, positive
from plugins.warmup.tallies import Tallies, Tally
from plugins.warmup_contracts import ActivityView, WarmupCandidate, question_of

__all__ = ["ComesNext"]

_PRESENT = 1000
"""Questions that were just asked, whose followers are counted."""
_FOLLOWERS = 64
"""Followers of each that are kept at least."""


class ComesNext:
    """Warms what is usually asked soon after what was just asked.

    A chain of first order: of each question that was just asked it counts what came next in the
    past, from anyone and from the same user, within the gap. Activity is counted by the hour, with
    the time of the last asking only; so of what was asked several times in one hour, the last is
    what is followed.

    Args:
        gap_minutes: How soon one asking must follow another to count as its follower; and how long
            ago what was just asked may be.
        days: How far back activity counts.
        minimum: How often one must have followed the other.
    """

    def __init__(self, *, gap_minutes: float = 30.0, days: float = 30.0, minimum: int = 2) -> None:
        self._gap = positive("gap_minutes", gap_minutes) * MINUTE
        self._days = positive("days", days)
        self._minimum = at_least("minimum", minimum, 1)

    def candidates(self, activity: ActivityView, limit: int) -> Iterator[WarmupCandidate]:
        """Yield what is most likely to be asked next."""
        present = self._present(activity)
        if not present:
            return
        self._count_followers(activity, present)
        misses: dict[str, float] = {}
        reasons: dict[str, tuple[float, Tally, str]] = {}
        for leader in present.values():
            for tally in leader.followers:
                if tally.count < self._minimum:
                    continue
                question, chance = tally.question, tally.count / leader.seen
                misses[question] = misses.get(question, 1.0) * (1 - chance)
                if question not in reasons or chance > reasons[question][0]:
                    reason = f"came next {tally.count} of {leader.seen} times after {leader.user}"
                    reasons[question] = chance, tally, reason
        chosen = heapq.nsmallest(limit, misses, key=lambda question: (misses[question], question))
        for question in chosen:
            _, tally, reason = reasons[question]
            yield WarmupCandidate(tally.request, 1 - misses[question], reason)

    def _present(self, activity: ActivityView) -> dict[str, _Leader]:
        """Return what was just asked, by its question: the last of it, if it is much."""
        since, leaders = activity.now - self._gap, dict[str, _Leader]()
        for asking in activity.askings(since - HOUR, activity.now):
            if asking.last >= since:
                question = question_of(asking.request())
                leaders.pop(question, None)  # so that the first is the one asked longest ago
                leaders[question] = _Leader(question, asking.user_id)
                if len(leaders) > _PRESENT:
                    del leaders[next(iter(leaders))]
        return leaders

    def _count_followers(self, activity: ActivityView, present: dict[str, _Leader]) -> None:
        """Count how often what was just asked was asked before, and what came next.

        Next is what anyone asked, and what the same user did: others may have come in between.
        """
        last: _Leader | None = None
        last_of: dict[UserId, _Leader] = {}
        for asking in activity.askings(activity.now - self._days * DAY, activity.now):
            question = question_of(asking.request())
            for leader in {last, last_of.pop(asking.user_id, None)}:
                if leader is not None and leader.is_followed(question, asking.last, self._gap):
                    leader.followers.add(asking, 1.0, times=1)
            last = present.get(question)
            if last is not None:
                last.seen += 1
                last.at = asking.last
                last_of[asking.user_id] = last


class _Leader:
    """A question that was just asked, and what came after it before."""

    __slots__ = ("at", "followers", "question", "seen", "user")

    def __init__(self, question: str, user: UserId) -> None:
        self.question = question
        self.user = repr(user)
        self.seen = 0
        """In how many hours it was asked."""
        self.at = 0.0
        """When last, of those that have been read."""
        self.followers = Tallies(_FOLLOWERS)

    def is_followed(self, question: str, at: float, gap: float) -> bool:
        """Return whether a question at an instant comes next."""
        return question != self.question and at - self.at <= gap
