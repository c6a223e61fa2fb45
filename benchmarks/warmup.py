"""What warming earns: hit rates by strategy and budget, beside an oracle that knows what comes.

Run: ``python -m benchmarks.warmup [--quick] [--json]``. Two shops are replayed through L1, the code
that serves, by their own clock:

* ``online-retail`` (with ``RECSERVE_DATA``): one request is one visit, some 50 on a day with any.
  Its clock is compressed: an answer is fresh for 24 hours of the shop's time, as it would be for
  300 s if a day went by in as long.
* ``generated``: 1,500 users, each with an hour of the day and a share of days on which it comes,
  for one to three pages with up to half an hour in between; each week a tenth of them change
  places. An answer is fresh for 2 hours.

Before each run a strategy sees what was asked until then, and what it wants and is not fresh is
computed, up to N a day. `popular` and `recent` run at midnight in the first shop; all others, and
all in the second, run every hour (`sequence` every ten minutes), with as much of the day's budget
as is due. ``earned`` is the
share of warmed answers that were asked for while they were fresh. The oracle warms what will be
asked until its next run, the most asked first.

The real shop's users are also counted by their first request of each day: ``covered`` is the share
of those who were among the N most popular of the days before, from the 31st day on.
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path
from random import Random
from typing import Any

from cache_app.core.keys import recommendation_key
from cache_app.core.levels import Levels
from cache_app.core.memory import MemoryLevel
from plugins import (
    ActivityView,
    Asking,
    RecommendationRequest,
    WarmupCandidate,
    WarmupStrategy,
    question_of,
)
from plugins.eviction.sieve import SIEVE
from plugins.warmup.expiring import Expiring
from plugins.warmup.peak_hours import PeakHours
from plugins.warmup.popular import Popular
from plugins.warmup.recent import Recent
from plugins.warmup.sequence import ComesNext
from serving_app.demo.interactions import rows_of

DATA = Path(os.environ.get("RECSERVE_DATA", "../shared/data"))
SHOP = DATA / "recs" / "online-retail" / "interactions.csv.xz"
HOUR = 3600
DAY = 24 * HOUR
BUDGETS = (100, 500, 2000)
BARS = {"all time": 0.35, "fading": 0.25}
"""Of first requests of a day that `popular` covers at N = 500."""
ALL = 3660.0
"""Days: everything."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a shop."""

    at: float
    asks: RecommendationRequest
    question: str


class Activity:
    """What has been asked so far, by the hour: an `ActivityView`."""

    model_name, alias = "default", ""
    zone: tzinfo = UTC

    def __init__(self) -> None:
        self.now = 0.0
        self.fresh_for: Callable[[RecommendationRequest], float | None] = lambda _: None
        self._hours: list[int] = []
        self._past: list[list[Asking]] = []
        self._current: dict[str, Asking] = {}

    def add(self, request: Request) -> None:
        """Count a request; they come in the order of time."""
        hour = int(request.at // HOUR) * HOUR
        if not self._hours or self._hours[-1] != hour:
            self._hours.append(hour)
            self._past.append([])
            self._current = {}
        asks, known = request.asks, self._current.get(request.question)
        count = 1 if known is None else known.count + 1
        self._current[request.question] = Asking(
            *(asks.user_id, asks.model_name, asks.alias, asks.context, hour, count, request.at)
        )
        self._past[-1] = sorted(self._current.values(), key=lambda each: each.last)

    def askings(self, since: float, until: float) -> Iterator[Asking]:
        """Yield what was asked in a time."""
        for at in range(bisect.bisect_left(self._hours, since), len(self._hours)):
            if self._hours[at] >= until:
                return
            yield from self._past[at]


class Oracle:
    """Knows what will be asked until the next run."""

    def __init__(self, requests: list[Request], seconds: float) -> None:
        self._requests = requests
        self._times = [each.at for each in requests]
        self._seconds = seconds

    def candidates(self, activity: ActivityView, limit: int) -> Iterable[WarmupCandidate]:
        """Yield it, the most asked first."""
        first = bisect.bisect_left(self._times, activity.now)
        last = bisect.bisect_left(self._times, activity.now + self._seconds)
        coming = self._requests[first:last]
        asked = Counter(each.question for each in coming)
        asks = {each.question: each.asks for each in coming}
        for question, n in sorted(asked.items(), key=lambda each: (-each[1], each[0]))[:limit]:
            yield WarmupCandidate(asks[question], float(n), "it will be asked")


@dataclass(frozen=True, slots=True)
class Plan:
    """A strategy, and when it runs."""

    strategy: WarmupStrategy
    every: float
    """Seconds between two runs; the first is at midnight."""
    renew_before: float = 0.0
    """Answers that are fresh for no longer are computed anew."""
    hours: tuple[int, int] = (0, 24)
    """Between which hours of the day it runs."""


class Cache:
    """L1 with a clock of its own, and what warming has earned in it."""

    def __init__(self, activity: Activity, ttl: float) -> None:
        self._activity = activity
        self._ttl = ttl
        self._l1 = MemoryLevel(SIEVE, capacity=1_000_000, clock=lambda: activity.now)
        self._levels = Levels([self._l1], clock=lambda: activity.now)
        self._unused: set[str] = set()
        self.requests = self.hits = self.warmed = self.earned = self.spent = 0

    def ask(self, request: Request, *, counts: bool) -> None:
        """Answer a request."""
        key = key_of(request.asks)
        hit = self._levels.find(key) is not None
        if not hit:
            self._levels.store(key, "answer", ttl=self._ttl)
        earned = hit and key in self._unused
        self._unused.discard(key)
        if counts:
            self.requests += 1
            self.hits += hit
            self.earned += earned

    def fresh_for(self, asks: RecommendationRequest) -> float | None:
        """Return how long the answer is still fresh."""
        entry: Any = self._l1.peek(key_of(asks))
        return None if entry is None else entry.instants[1] - self._activity.now

    def warm(
        self, chosen: Iterable[WarmupCandidate], budget: int, renew_before: float, *, counts: bool
    ) -> None:
        """Compute what is not fresh, as far as the budget goes."""
        left = budget - self.spent
        for each in chosen:
            if left <= 0:
                return
            fresh_for = self.fresh_for(each.request)
            if fresh_for is not None and fresh_for > renew_before:
                continue
            key = key_of(each.request)
            self._levels.store(key, "answer", ttl=self._ttl, origin="warmup")
            self._unused.add(key)
            self.spent += 1
            self.warmed += counts
            left -= 1


_keys: dict[tuple[Any, str], str] = {}


def key_of(asks: RecommendationRequest) -> str:
    """Return the cache key of a request."""
    known = asks.user_id, str(asks.context)
    if known not in _keys:
        _keys[known] = recommendation_key(
            namespace="benchmark",
            model_name=asks.model_name,
            version=1,
            fingerprint="0",
            segment="all",
            user_id=asks.user_id,
            context=asks.context,
        )
    return _keys[known]


def replay(
    requests: list[Request], plan: Plan | None, *, ttl: float, since: float
) -> dict[int, Cache]:
    """Return by budget what became of the requests after ``since``; those before are learned."""
    activity = Activity()
    caches = {n: Cache(activity, ttl) for n in (BUDGETS if plan else (0,))}
    run_at = requests[0].at // DAY * DAY
    for request in requests:
        while plan is not None and run_at <= request.at:
            activity.now = run_at
            # What was warmed the day before is of use only from then on.
            if run_at >= since - 2 * DAY:
                run(plan, activity, caches, counts=run_at >= since)
            run_at += plan.every
        activity.now = request.at
        for cache in caches.values():
            cache.ask(request, counts=request.at >= since)
        activity.add(request)
    return caches


def run(plan: Plan, activity: Activity, caches: Mapping[int, Cache], *, counts: bool) -> None:
    """Warm each cache once, with the part of the day's budget that is due."""
    of_day = activity.now % DAY
    if of_day < plan.every:
        for cache in caches.values():
            cache.spent = 0
    begins, ends = (hour * HOUR for hour in plan.hours)
    if not begins <= of_day < ends:
        return
    due = min(1.0, (of_day - begins + plan.every) / (ends - begins))
    chosen: list[WarmupCandidate] = []
    if not plan.renew_before:  # the same for all; a smaller budget takes the first of them
        chosen = list(plan.strategy.candidates(activity, max(caches)))
    for n, cache in caches.items():
        if plan.renew_before:
            activity.fresh_for = cache.fresh_for
            chosen = list(plan.strategy.candidates(activity, n))
        cache.warm(chosen, round(n * due), plan.renew_before, counts=counts)


def covered(requests: list[Request], strategy: WarmupStrategy, since: float) -> dict[int, float]:
    """Return by budget the share of first requests of a day whose user a strategy named before."""
    activity, day = Activity(), -1.0
    ranks: dict[str, int] = {}
    seen: set[str] = set()
    found: Counter[int] = Counter()
    total = 0
    for request in requests:
        if request.at // DAY != day:
            day, seen = request.at // DAY, set()
            activity.now = day * DAY
            if request.at >= since:
                chosen = strategy.candidates(activity, max(BUDGETS))
                ranks = {question_of(each.request): at for at, each in enumerate(chosen)}
        if request.at >= since and request.question not in seen:
            total += 1
            found.update(n for n in BUDGETS if ranks.get(request.question, n) < n)
        seen.add(request.question)
        activity.add(request)
    return {n: found[n] / total for n in BUDGETS}


# --- Shops ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shop:
    """Requests, and how they are replayed."""

    requests: list[Request]
    ttl: float
    since: float
    plans: Mapping[str, Plan] = field(default_factory=dict)


def request(at: float, user: str, page: str = "") -> Request:
    """Return a request of a user."""
    asks = RecommendationRequest(user, context={"page": page} if page else {})
    return Request(at, asks, question_of(asks))


def online_retail(*, quick: bool) -> Shop:
    """Return the real shop: visits, without their items."""
    visits = {(float(at), user) for _, (user, at) in rows_of(SHOP, ("user", "timestamp"))}
    requests = [request(at, user) for at, user in sorted(visits)]
    first, last = requests[0].at // DAY * DAY, requests[-1].at
    since = last // DAY * DAY - 6 * DAY if quick else first + 30 * DAY
    open_ = (6, 21)
    return Shop(
        requests,
        float(DAY),
        since,
        {
            "popular, all time": Plan(Popular(days=ALL, minimum=1), DAY),
            "popular, half-life 14 days": Plan(
                Popular(days=ALL, half_life_days=14.0, minimum=1), DAY
            ),
            "recent, 60 days": Plan(Recent(hours=60 * 24.0), DAY),
            "peak_hours, 180 days": Plan(
                PeakHours(days=180.0, minimum=1, chance=0.0), HOUR, hours=open_
            ),
            "expiring, 60 days": Plan(
                Expiring(ahead_minutes=61.0, days=60.0, minimum=2), HOUR, 61 * 60.0, open_
            ),
            "sequence, 180 days": Plan(
                ComesNext(gap_minutes=60.0, days=180.0, minimum=1), HOUR, hours=open_
            ),
            "oracle": Plan(Oracle(requests, DAY), DAY),
        },
    )


def generated(*, quick: bool) -> Shop:
    """Return a shop whose users come at their hours."""
    rng = Random(7)
    users, days, learned = 1500, 20 if quick else 35, 18 if quick else 28
    hours = [rng.gauss(rng.choices((8.5, 12.5, 20.5), (2, 1, 3))[0], 1.0) for _ in range(users)]
    share = [rng.betavariate(0.4, 1.2) for _ in range(users)]
    requests = []
    for day in range(days):
        if day % 7 == 0:
            for user in rng.sample(range(users), users // 10):
                other = rng.randrange(users)
                share[user], share[other] = share[other], share[user]
        for user in range(users):
            if rng.random() < share[user]:
                at = day * DAY + (hours[user] + rng.gauss(0, 0.3)) % 24 * HOUR
                for page in ("home", "list", "cart")[: rng.choice((1, 1, 2, 3))]:
                    requests.append(request(at, f"u{user}", page))
                    at += rng.uniform(60, 1800)
    requests.sort(key=lambda each: (each.at, each.question))
    return Shop(
        requests,
        2.0 * HOUR,
        float(learned * DAY),
        {
            "popular": Plan(Popular(days=14.0), HOUR),
            "popular, half-life 3 days": Plan(Popular(days=14.0, half_life_days=3.0), HOUR),
            "recent": Plan(Recent(hours=25.0), HOUR),
            "peak_hours": Plan(PeakHours(days=14.0), HOUR),
            "expiring": Plan(Expiring(ahead_minutes=61.0), HOUR, 61 * 60.0),
            "sequence": Plan(ComesNext(gap_minutes=30.0, days=14.0), 600.0),
            "oracle": Plan(Oracle(requests, HOUR), HOUR),
        },
    )


def measure(shop: Shop) -> dict[str, Any]:
    """Replay a shop without and with each plan; print a table."""
    (plain,) = replay(shop.requests, None, ttl=shop.ttl, since=shop.since).values()
    rate = plain.hits / plain.requests
    days = (shop.requests[-1].at - shop.since) / DAY
    print(f"{plain.requests} requests in {days:.0f} days; without warming {rate:.3f} hit")
    print(
        f"{'hit rate (earned) at N a day':30}" + "".join(f"{n:>18}" for n in BUDGETS) + "   CPU s"
    )
    result: dict[str, Any] = {"requests": plain.requests, "without": rate, "strategies": {}}
    for name, plan in shop.plans.items():
        started = time.process_time()
        caches = replay(shop.requests, plan, ttl=shop.ttl, since=shop.since)
        spent = time.process_time() - started
        line, kept = f"{name:30}", {}
        for n, cache in caches.items():
            hit, earned = cache.hits / cache.requests, cache.earned / max(1, cache.warmed)
            kept[str(n)] = {
                "hit_rate": hit,
                "earned": earned,
                "warmed_a_day": cache.warmed / days,
            }
            line += f"{hit:>10.3f} ({earned:5.3f})"
        result["strategies"][name] = kept
        print(f"{line}{spent:8.1f}", flush=True)
    return result


def main() -> None:
    """Replay both shops, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the last weeks or days only")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if SHOP.exists():
        shop = online_retail(quick=options.quick)
        print(f"online-retail, fresh for {shop.ttl / HOUR:.0f} h of the shop's time")
        result["online_retail"] = measured = measure(shop)
        measured["covered"] = {}
        print("\nFirst requests of a day by users among the N most popular")
        for name, plan in zip(BARS, list(shop.plans.values())[:2], strict=True):
            since = shop.requests[0].at // DAY * DAY + 30 * DAY
            shares = covered(shop.requests, plan.strategy, since)
            measured["covered"][name] = {str(n): share for n, share in shares.items()}
            met = "meets" if shares[500] >= BARS[name] else "misses"
            line = "".join(f"{n:>8}: {share:.3f}" for n, share in shares.items())
            print(f"{name:20}{line}   {met} its bar of {BARS[name]} at 500")
    else:
        print("Without RECSERVE_DATA the real shop is left out.", file=sys.stderr)
    shop = generated(quick=options.quick)
    print(f"\ngenerated, fresh for {shop.ttl / HOUR:.0f} h")
    result["generated"] = measure(shop)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
