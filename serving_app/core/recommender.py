"""The main path: cache, then model, then fallback."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from random import Random
from typing import Any

from cache_app.core.freshness import Freshness
from cache_app.core.generations import Generations, scopes_of
from cache_app.core.keys import digest_features, in_generation, recommendation_key, tags_of
from cache_app.core.lease_waits import LeaseWaits
from cache_app.core.levels import Found, Known, Levels, Look
from cache_app.core.negative import NegativeEntries, NegativeStats
from cache_app.core.steps import Runner, Steps
from plugins import (
    Explanation,
    InvalidInput,
    Priority,
    Recommendation,
    RecommendationRequest,
    RecserveError,
    Unavailable,
    UserId,
)
from serving_app.core.computations import Computations
from serving_app.core.features import Row
from serving_app.core.hit_path import HitPath
from serving_app.core.live_models import Lease, LiveModels
from serving_app.core.live_version import LiveVersion
from serving_app.core.pending import Looked, Pending, Rest
from serving_app.core.ranking import Ranking
from serving_app.core.renewals import FailedRenewals
from serving_app.core.request_counts import MISS, RecommenderStats, RequestCounts
from serving_app.core.segment_table import EVERYONE, SegmentPlan, SegmentTerms
from serving_app.core.urgency import Urgency
from serving_app.core.warming import Warming

_EVERYONE = SegmentTerms(EVERYONE)


def _nowhere(_: UserId) -> SegmentPlan | None:
    return None


class Recommender:
    """Answers recommendation requests. Any thread calls it, many at once.

    Args:
        live: The models that answer in this process.
        levels: The cache.
        generations: What has been invalidated.
        fallback: Answers when a model cannot, or returns None.
        namespace: First part of every cache key.
        freshness: How long a computed ranking is fresh, and how long a stale one may answer.
        depth: How deep a ranking is computed and cached at least; one entry serves every ``k``
            (with its exclusions) up to it.
        negative: Remembers questions that were refused; None: none is.
        computed: Called with the lease, row, depth and ranking of each computation when its
            waiters have been answered, on the thread that answered them; it must not wait.
        leases: Lets one process of all that share a level compute a key; None: each does.
        runner: Stores what was computed without waiting, on an event loop; None: each thread waits.
        asked: Called with each request that was answered and is no warm-up, and with whether the
            cache had a fresh answer, on the thread that asked; it must not wait.
        plan_of: Returns the plan of a user's segment, or None for a user in none; it must not
            wait.
        clock: Monotonic seconds.
        rng: Draws jitter and early refreshes.
    """

    def __init__(
        self,
        live: LiveModels,
        levels: Levels,
        generations: Generations,
        *,
        fallback: Callable[[RecommendationRequest, Unavailable], Recommendation | None],
        namespace: str,
        freshness: Freshness,
        depth: int,
        negative: NegativeEntries | None = None,
        computed: Callable[[Lease, Row, int, Ranking], None] | None = None,
        leases: LeaseWaits | None = None,
        runner: Runner | None = None,
        asked: Callable[[RecommendationRequest, bool], None] | None = None,
        plan_of: Callable[[UserId], SegmentPlan | None] = _nowhere,
        clock: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
    ) -> None:
        self._live = live
        self._levels = levels
        self._generations = generations
        self._fallback = fallback
        self._namespace = namespace
        self._freshness = freshness
        self._rng = rng or Random()  # noqa: S311  (it spreads expiries, and guards no secret)
        self._depth = depth
        self._negative = negative or NegativeEntries()
        self._asked = asked
        self._plan_of = plan_of
        self._clock = clock
        self._computations = Computations(
            levels,
            freshness=freshness,
            negative=self._negative,
            computed=computed,
            leases=leases,
            runner=runner or Runner(),
            clock=clock,
            rng=self._rng,
        )
        self._failed_renewals = FailedRenewals()
        self._counts = RequestCounts()

    def recommend(self, request: RecommendationRequest) -> Recommendation:
        """Return the answer to one request.

        Raises:
            BadRequest: The request cannot be answered as it is.
            Unavailable: The model cannot answer now, and no fallback did.
        """
        result = self.recommend_many([request])[0]
        if isinstance(result, RecserveError):
            raise result
        return result

    def recommend_many(
        self, requests: Sequence[RecommendationRequest]
    ) -> list[Recommendation | RecserveError]:
        """Return the answer to each request, or its error, in order.

        Hits come from the cache; the misses of all requests share the model's batches.
        """
        started = self._clock()
        submitted = [self.start(request, started) for request in requests]
        return [
            self.finish(request, pending, started)
            for request, pending in zip(requests, submitted, strict=True)
        ]

    def start(self, request: RecommendationRequest, started: float) -> Pending | RecserveError:
        """Look the request up, and start its computation, or join the one under way, if need be.

        Args:
            request: The request.
            started: When it came, by the clock.
        """
        try:
            pending = self._submit(request, started)
        except RecserveError as error:
            return error
        assert isinstance(pending, Pending), "only who must not wait is told to"
        return pending

    def start_at_once(
        self, request: RecommendationRequest, started: float, looked: Looked | None = None
    ) -> Pending | RecserveError | Callable[[], Pending | RecserveError]:
        """Do what `start` does, if that waits for nothing: for an event loop.

        What is returned else may wait for a database, a level or a feature source: call it on a
        thread, and it does the rest. A `Rest` only waits for levels, and is taken in steps.

        Args:
            request: The request.
            started: When it came, by the clock.
            looked: A look into the levels, which is not repeated if it was for the same key.
        """
        try:
            return self._submit(request, started, at_once=True, looked=looked)
        except RecserveError as error:
            return error

    def _rest(
        self,
        request: RecommendationRequest,
        started: float,
        key: str,
        since: int,
        found: Found | None,
    ) -> Pending | RecserveError:
        """Do what was left undone after all levels were looked into."""
        try:
            pending = self._submit(request, started, looked=Looked(key, since, found))
        except RecserveError as error:
            return error
        assert isinstance(pending, Pending), "only who must not wait is told to"
        return pending

    def _submit(
        self,
        request: RecommendationRequest,
        now: float,
        *,
        at_once: bool = False,
        looked: Looked | None = None,
    ) -> Pending | Callable[[], Pending | RecserveError]:
        """Look up, if that was not done, and compute."""
        terms = self._terms_of(request)
        lease = self._lease_by(terms, request) if terms.alias else None
        if lease is None:
            asked = request.model_name, request.user_id, request.alias
            lease = self._live.find(*asked) if at_once else self._live.lease(*asked)
        if lease is None:  # why, the database says
            return functools.partial(self.start, request, now)
        try:
            version, record = lease.version, lease.version.record
            deadline = now + (record.timeout if request.timeout is None else request.timeout)
            if looked is not None and looked.version is version and looked.segment == terms.name:
                row, key = looked.row, looked.key
            else:
                made = self._keyed(request, version, terms.name, at_once=at_once)
                if made is None:
                    return functools.partial(self.start, request, now)
                row, key = made
            if looked is None or looked.key != key:
                moment = self._computations.moment()
                found = self._find(key, request, self._levels.quick if at_once else None)
                further = at_once and bool(self._levels.slow)
            else:
                moment, found, further = looked.since, self._fit(request, looked.found), False
            fresh = found is not None and not found.stale_for
            if further and not fresh:
                finding = self._levels.finding(key, among=self._levels.slow, stale=found)
                compute = functools.partial(
                    self._compute, request, key, row, terms=terms, deadline=deadline, since=moment
                )
                rest = functools.partial(self._rest, request, now, key, moment)
                return Rest(self._looking(request, lease.share(), finding, compute, rest=rest))
            if at_once and not fresh and row is None and version.source_waits:
                return functools.partial(self._rest, request, now, key, moment, found)
            return self._compute(
                request, key, row, lease, found, terms=terms, deadline=deadline, since=moment
            )
        finally:
            lease.release()

    def _keyed(
        self, request: RecommendationRequest, version: LiveVersion, segment: str, *, at_once: bool
    ) -> tuple[Row | None, str] | None:
        """Return the row of the features that a request gives, and its key; None: that may wait."""
        # Given features are checked even if the answer is cached: a hit hides no bad request.
        row = None if request.features is None else version.layout.row(request.features)
        entry, scopes = self._entry(request, version, row, segment)
        generation = (
            self._generations.of_at_once(scopes, entry)
            if at_once
            else self._generations.of(scopes, entry)
        )
        return None if generation is None else (row, in_generation(entry, generation))

    def _looking(
        self,
        request: RecommendationRequest,
        lease: Lease,
        finding: Steps[Found | None],
        compute: Callable[[Lease, Found | None], Pending],
        *,
        rest: Callable[[Found | None], Pending | RecserveError],
    ) -> Steps[Pending | RecserveError | Callable[[], Pending | RecserveError]]:
        """Look into the levels that may wait, and compute what they have not fresh, in steps.

        Args:
            request: What is asked.
            lease: The version; released in the end.
            finding: Looks into the levels.
            compute: Computes, or answers with what was found.
            rest: Does the same on a thread, if a feature source is to be asked.
        """
        try:
            found = self._fit(request, (yield from finding))
            fresh = found is not None and not found.stale_for
            if not fresh and request.features is None and lease.version.source_waits:
                return functools.partial(rest, found)
            return compute(lease, found)
        except RecserveError as error:
            return error
        finally:
            lease.release()

    def _compute(
        self,
        request: RecommendationRequest,
        key: str,
        row: Row | None,
        lease: Lease,
        found: Found | None,
        *,
        terms: SegmentTerms,
        deadline: float,
        since: int,
    ) -> Pending:
        """Compute what was not found fresh, unless it is known to be refused."""
        version, record = lease.version, lease.version.record
        pending = functools.partial(
            Pending, request, record, deadline, alias=lease.alias, segment=terms.name
        )
        if found is not None and not found.stale_for:
            return pending(found, None)
        refused = self._negative.find(key)
        if refused is not None:
            return pending(None, None, refused)
        renews = self._renews(found)
        # Nobody waits for a renewal, so it has all of the model's time.
        urgency = (
            Urgency(max(request.priority, Priority.REFRESH), self._clock() + record.timeout)
            if renews
            else Urgency(request.priority, deadline)
        )
        depth = self._depth_for(request)
        try:
            flight = self._computations.start(
                key,
                depth,
                functools.partial(_row_of, version, request, row),
                lease,
                urgency,
                since=since,
                renewed=self._renewal_of(key, found),
                freshness=terms.freshness,
            )
        except RecserveError as error:
            stands_in = found if isinstance(error, Unavailable) else None
            return pending(stands_in, None, error)
        if found is None or not renews:
            leave = functools.partial(self._computations.leave, key, depth, flight)
            return pending(found, flight, leave=leave)
        failed = self._failed_renewals.includes(key, found.created)
        return pending(found, flight, revalidates=True, renewal_failed=failed)

    def warm(self, request: RecommendationRequest, *, renew_before: float = 0.0) -> Warming:
        """Let the answer to a request be computed before anyone asks, unless it is there.

        It becomes the entry that the request itself would look up. It is no request: nothing
        counts it, and no fallback stands in.

        Args:
            request: The question, as a client would ask it.
            renew_before: Seconds; an answer that stays fresh for no longer is computed anew.

        Raises:
            BadRequest: The request cannot be answered as it is.
            Unavailable: The model cannot answer now.
        """
        terms = self._terms_of(request)
        lease = self._lease_by(terms, request) or self._live.lease(
            request.model_name, request.user_id, request.alias
        )
        try:
            version, depth = lease.version, self._depth_for(request)
            row = None if request.features is None else version.layout.row(request.features)
            entry, scopes = self._entry(request, version, row, terms.name)
            key = in_generation(entry, self._generations.of(scopes, entry))
            since = self._computations.moment()
            known = self._levels.known(key)
            if known is not None and known.value.cut(request.k, request.exclude) is None:
                known = None
            if known is not None and known.fresh_for > renew_before:
                return Warming(known, None)
            if (refused := self._negative.find(key)) is not None:
                raise refused
            timeout = version.record.timeout if request.timeout is None else request.timeout
            flight = self._computations.start(
                key,
                depth,
                functools.partial(_row_of, version, request, row),
                lease,
                Urgency(Priority.WARM_UP, self._clock() + timeout),
                since=since,
                renewed=None,
                freshness=terms.freshness,
                replaces=None if known is None else known.created,
            )
            return Warming(
                known, flight, functools.partial(self._computations.leave, key, depth, flight)
            )
        finally:
            lease.release()

    def known(self, request: RecommendationRequest) -> Known | None:
        """Return the answer that the cache has for a request, however old, or None.

        It is no request: nothing counts it, and L1 does not take it for a use.

        Raises:
            BadRequest: The request cannot be answered as it is.
            ModelNotReady: The model is not live in this process.
        """
        known = self._levels.known(self.key(request))
        deep = known is not None and known.value.cut(request.k, request.exclude) is not None
        return known if deep else None

    def key(self, request: RecommendationRequest) -> str:
        """Return the cache key under which the answer to a request is, or would be.

        Raises:
            BadRequest: The request cannot be answered as it is.
            ModelNotReady: The model is not live in this process.
        """
        terms = self._terms_of(request)
        lease = self._lease_by(terms, request) or self._live.lease(
            request.model_name, request.user_id, request.alias
        )
        try:
            layout = lease.version.layout
            row = None if request.features is None else layout.row(request.features)
            entry, scopes = self._entry(request, lease.version, row, terms.name)
            return in_generation(entry, self._generations.of(scopes, entry))
        finally:
            lease.release()

    def _terms_of(self, request: RecommendationRequest) -> SegmentTerms:
        """Return the terms of the user's segment."""
        try:
            plan = self._plan_of(request.user_id)
        except TypeError:  # it is no user id, as the key will say
            plan = None
        return _EVERYONE if plan is None else plan.terms

    def _lease_by(self, terms: SegmentTerms, request: RecommendationRequest) -> Lease | None:
        """Return a lease by the segment's alias; None: another was asked for, or there is none."""
        if not terms.alias or request.alias:
            return None
        return self._live.find(request.model_name, request.user_id, terms.alias)

    def _entry(
        self,
        request: RecommendationRequest,
        version: LiveVersion,
        row: Row | None,
        segment: str,
    ) -> tuple[str, Sequence[str]]:
        """Return a request's cache key without its generation, and the scopes of that."""
        record = version.record
        entry = recommendation_key(
            namespace=self._namespace,
            model_name=record.model_name,
            version=record.version,
            fingerprint=version.fingerprint,
            segment=segment,
            user_id=request.user_id,
            context=request.context,
            features_digest="" if row is None else digest_features(row),
            generation="",
        )
        scopes = scopes_of(
            user_id=request.user_id,
            model_name=record.model_name,
            version=record.version,
            segment=segment,
            tags=tags_of(request.context) if request.context else (),
        )
        return entry, scopes

    def _find(
        self, key: str, request: RecommendationRequest, among: Look | None = None
    ) -> Found | None:
        """Return what the cache has, if it is deep enough, and not too stale, for the request."""
        return self._fit(request, self._levels.find(key, among=among))

    def _fit(self, request: RecommendationRequest, found: Found | None) -> Found | None:
        if found is None or found.stale_for > self._freshness.longest_stale:
            return None
        return None if found.value.cut(request.k, request.exclude) is None else found

    def _renews(self, found: Found | None) -> bool:
        """Return whether what was found, though stale, answers while it is computed anew."""
        return found is not None and found.stale_for < self._freshness.stale_while_revalidate

    def _renewal_of(
        self, key: str, found: Found | None
    ) -> Callable[[Future[Ranking]], None] | None:
        """Return what takes note of how the renewal of a stale value ends."""
        if found is None:
            return None
        return functools.partial(self._failed_renewals.note, key, found.created)

    def _depth_for(self, request: RecommendationRequest) -> int:
        """Return a depth that leaves ``k`` items whatever is excluded, in powers of two."""
        depth = self._depth
        while depth < request.k + len(request.exclude):
            depth *= 2
        return depth

    def finish(
        self, request: RecommendationRequest, pending: Pending | RecserveError, started: float
    ) -> Recommendation | RecserveError:
        """Return the answer, or a fallback's answer, or the error; count it. It may wait."""
        result, lookup, segment = self._outcome(request, pending)
        if isinstance(result, Unavailable):
            stand_in = self._fallback(request, result)
            result = result if stand_in is None else replace(stand_in, degraded=True)
        if request.explain:
            result = self._explained(pending, result, segment)
        return self._counted(request, result, lookup, segment, started)

    def finish_at_once(
        self, request: RecommendationRequest, pending: Pending | RecserveError, started: float
    ) -> Recommendation | RecserveError | Callable[[], Recommendation | RecserveError]:
        """Do what `finish` does, if no fallback is to be asked; what is returned else asks it.

        For an event loop: call it when ``pending`` waits for nothing, or its deadline has come.
        """
        result, lookup, segment = self._outcome(request, pending)
        if isinstance(result, Unavailable):
            return functools.partial(self.finish, request, pending, started)
        if request.explain:
            result = self._explained(pending, result, segment)
        return self._counted(request, result, lookup, segment, started)

    def _explained(
        self,
        pending: Pending | RecserveError,
        result: Recommendation | RecserveError,
        segment: str,
    ) -> Recommendation | RecserveError:
        """Return an answer with how it came about; an error as it is."""
        if isinstance(result, RecserveError):
            return result
        age = batch = None
        if isinstance(pending, Pending):
            if result.cached and pending.found is not None:
                age = self._levels.age(pending.found)
            elif result.source == "model" and pending.flight is not None:
                batch = pending.flight.note
        return replace(result, explanation=Explanation(segment, age, batch))

    def _outcome(
        self, request: RecommendationRequest, pending: Pending | RecserveError
    ) -> tuple[Recommendation | RecserveError, str | None, str]:
        """Return what came of a request, how its look-up ended, if there was one, and its segment.

        The segment is the one it was looked up in, though the user may have moved since.
        """
        result: Recommendation | RecserveError
        if isinstance(pending, RecserveError):
            return pending, None, self._terms_of(request).name
        try:
            result = pending.result(self._clock())
        except RecserveError as error:
            result = error
        return result, _lookup(result), pending.segment

    def _counted(
        self,
        request: RecommendationRequest,
        result: Recommendation | RecserveError,
        lookup: str | None,
        segment: str,
        started: float,
    ) -> Recommendation | RecserveError:
        self._counts.count(
            request.model_name, result, self._clock() - started, segment=segment, lookup=lookup
        )
        if (
            self._asked is not None
            and isinstance(result, Recommendation)
            and request.priority != Priority.WARM_UP
        ):
            self._asked(request, result.cached and not result.stale_for)
        return result

    def hit_path(
        self, asked: Callable[[str, str, UserId, Mapping[str, Any], bool, bool], None] | None
    ) -> HitPath:
        """Return the shortest way to what this recommender's levels have at hand.

        Args:
            asked: Is told what was asked: model, alias, user, context, whether features were given,
                and that the cache had a fresh answer.
        """
        return HitPath(
            self._live,
            self._levels,
            self._generations,
            namespace=self._namespace,
            plan_of=self._plan_of,
            counts=self._counts,
            moment=self._computations.moment,
            asked=asked,
        )

    def stats(self) -> dict[str, RecommenderStats]:
        """Return what was counted, by model name."""
        return self._counts.stats()

    def negative_stats(self) -> NegativeStats:
        """Return what was counted of questions that were refused out of the cache."""
        return self._negative.stats()


def _row_of(version: LiveVersion, request: RecommendationRequest, row: Row | None) -> Row:
    """Return the row of a request: its own features, or its user's."""
    return version.features_of(request.user_id, request.context) if row is None else row


def _lookup(result: Recommendation | RecserveError) -> str:
    """Return how the look-up in the cache ended that led to a result."""
    if isinstance(result, Recommendation):
        return MISS if result.source == "model" else result.source
    return (isinstance(result, InvalidInput) and result.source) or MISS
