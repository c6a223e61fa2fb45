"""What every warm-up strategy must do, as a test that its author can call."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from itertools import pairwise
from random import Random
from typing import Any

from plugins.contracts import Priority, RecommendationRequest, UserId
from plugins.warmup_contracts import (
    ActivityView,
    Asking,
    WarmupCandidate,
    WarmupStrategy,
    question_of,
)

__all__ = ["GivenActivity", "check_warmup_strategy"]

_NOW = 1_700_000_000.0  # a Tuesday, 22:13 UTC
_HOUR = 3600
_READS = 4
_LOOKS = 10
_CONTEXTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"page": "home"},
    {"page": "home", "nested": {"a": [1, None, True, 0.5]}},
    {"page": 1},
    {"page": "1"},
    {"tags": ["b", "a"]},
)


@dataclass
class GivenActivity:
    """Activity that a test gives: an `ActivityView` that counts how it is used.

    Attributes:
        given: The askings, in any order.
        model_name: The model that is warmed.
        alias: The alias that is warmed.
        now: The time.
        zone: The time zone.
        fresh: How long each question, by `question_of`, is fresh; those left out are not cached.
        reads: How often activity was read.
        looks: Of how many requests it was asked whether they are fresh.
    """

    given: Iterable[Asking]
    model_name: str = "default"
    alias: str = ""
    now: float = _NOW
    zone: tzinfo = UTC
    fresh: Mapping[str, float] = field(default_factory=dict)
    reads: int = 0
    looks: int = 0

    def askings(self, since: float, until: float) -> Iterator[Asking]:
        """Yield the askings of a time."""
        self.reads += 1
        among = [each for each in self.given if since <= each.hour < until]
        yield from sorted(among, key=lambda each: (each.hour, each.last))

    def fresh_for(self, request: RecommendationRequest) -> float | None:
        """Return how long a question is fresh."""
        self.looks += 1
        return self.fresh.get(question_of(request))


def check_warmup_strategy(make: Callable[[], WarmupStrategy], *, silent: bool = False) -> None:
    """Check that a strategy chooses as its contract says.

    It is given activity of many kinds: none, some, much; of several weeks, with contexts of all
    forms, with users that differ in type only; by an alias and without.

    Args:
        make: Makes the strategy, such as its class; called for every run.
        silent: Whether the strategy may find nothing in all of that. Else one that never returns
            a candidate fails: it was not checked at all.

    Raises:
        AssertionError: The strategy breaks its contract; the message says where.
    """
    found = 0
    for seed in range(8):
        rng = Random(seed)  # noqa: S311  (it makes test data)
        alias = "" if seed % 2 else "canary"
        given = tuple(_generated(rng, alias, n=(0, 1, 50, 400)[seed % 4]))
        fresh = {
            question_of(each.request()): rng.choice((0.0, 30.0, 7200.0)) for each in given[::2]
        }
        for limit in (0, 1, 7, 1000):
            activity = GivenActivity(given, alias=alias, fresh=fresh)
            before = copy.deepcopy(given)
            chosen = list(make().candidates(activity, limit))
            assert given == before, "candidates() changed an asking, or its context."
            _check_candidates(chosen, activity, limit)
            _check_frugal(activity, limit)
            again = list(make().candidates(GivenActivity(given, alias=alias, fresh=fresh), limit))
            assert again == chosen, "The same activity gave other candidates, or another order."
            found += len(chosen)
    assert found or silent, "It returned no candidate for any activity: nothing was checked."


def _generated(rng: Random, alias: str, n: int) -> Iterator[Asking]:
    """Yield activity: few users ask often, at their hours of the day, and many ask once."""
    users: list[UserId] = [1, "1", *(f"user {i}" for i in range(2, 40)), *range(2, 40)]
    at: dict[tuple[str, float], Asking] = {}
    for _ in range(n):
        user = users[min(int(rng.expovariate(0.2)), len(users) - 1)]
        day = rng.randrange(15)
        hour = (_NOW // _HOUR - 24 * day - rng.choice((0, 1, 2, 9))) * _HOUR
        last = min(hour + rng.randrange(_HOUR), _NOW)
        asking = Asking(
            *(user, "default", alias, rng.choice(_CONTEXTS)),
            hour=hour,
            count=rng.choice((1, 1, 2, 9)),
            last=last,
        )
        at[question_of(asking.request()), hour] = asking  # one count of a question in an hour
    yield from at.values()


def _check_candidates(chosen: list[WarmupCandidate], activity: ActivityView, limit: int) -> None:
    assert len(chosen) <= limit, f"{len(chosen)} candidates, where at most {limit} were wanted."
    seen: dict[str, int] = {}
    for place, each in enumerate(chosen):
        where = f"Candidate {place}"
        assert isinstance(each, WarmupCandidate), f"{where} is a {type(each).__name__}."
        request = each.request
        assert isinstance(request, RecommendationRequest), f"{where} has no request."
        asks = request.model_name, request.alias
        wanted = activity.model_name, activity.alias
        assert asks == wanted, f"{where} asks {asks}, but {wanted} is warmed."
        assert request.priority is Priority.WARM_UP, f"{where} has the priority {request.priority}."
        assert request.timeout is None, f"{where} has a deadline; whoever runs it sets one."
        assert isinstance(each.score, float), f"The score of {where} is {each.score!r}."
        assert math.isfinite(each.score), f"The score of {where} is {each.score}."
        assert each.score >= 0, f"The score of {where} is {each.score}."
        assert each.reason.strip(), f"{where} has no reason."
        assert "\n" not in each.reason, f"The reason of {where} has several lines."
        first = seen.setdefault(question_of(request), place)
        assert first == place, f"{where} asks what candidate {first} asks."
    for place, (one, next_) in enumerate(pairwise(chosen)):
        assert one.score >= next_.score, f"Candidate {place + 1} is better than the one before it."


def _check_frugal(activity: GivenActivity, limit: int) -> None:
    assert activity.reads <= _READS, f"Activity was read {activity.reads} times; once should do."
    assert activity.looks <= _LOOKS * limit, (
        f"fresh_for was asked {activity.looks} times for {limit} candidates, where "
        f"{_LOOKS * limit} are allowed: it may ask a Redis."
    )
