"""The main path: cache, then model, then fallback."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from random import Random

from cache_app.core.freshness import Freshness
from cache_app.core.generations import Generations, scopes_of
from cache_app.core.keys import digest_features, in_generation, recommendation_key, tags_of
from cache_app.core.lease_waits import KeyLease, LeaseWaits
from cache_app.core.levels import Found, Levels
from cache_app.core.negative import NegativeEntries, NegativeStats
from cache_app.core.single_flight import SingleFlight
from plugins import (
    InvalidInput,
    Priority,
    Recommendation,
    RecommendationRequest,
    RecserveError,
    Unavailable,
)
from serving_app.core.features import Row
from serving_app.core.live_models import Lease, LiveModels
from serving_app.core.live_version import LiveVersion
from serving_app.core.pending import Pending
from serving_app.core.ranking import Ranking
from serving_app.core.renewals import FailedRenewals
from serving_app.core.request_counts import MISS, RecommenderStats, RequestCounts
from serving_app.core.urgency import Urgency

SEGMENT = "all"
"""The segment of every user."""


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
        self._computed = computed
        self._leases = leases
        self._clock = clock
        self._flights: SingleFlight[tuple[str, int], Ranking] = SingleFlight()
        self._failed_renewals = FailedRenewals()
        self._urgencies: dict[tuple[str, int], Urgency] = {}
        """Of the flights."""
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
        submitted: list[Pending | RecserveError] = []
        for request in requests:
            try:
                submitted.append(self._submit(request, started))
            except RecserveError as error:
                submitted.append(error)
        return [
            self._finish(request, pending, started)
            for request, pending in zip(requests, submitted, strict=True)
        ]

    def _submit(self, request: RecommendationRequest, now: float) -> Pending:
        """Look the request up, and start its computation, or join the one under way, if need be."""
        lease = self._live.lease(request.model_name, request.user_id, request.alias)
        try:
            version, record, alias = lease.version, lease.version.record, lease.alias
            deadline = now + (record.timeout if request.timeout is None else request.timeout)
            # Given features are checked even if the answer is cached: a hit hides no bad request.
            row = None if request.features is None else version.layout.row(request.features)
            key = self._key(request, version, row)
            moment = self._flights.moment()
            found = self._find(key, request)
            if found is not None and not found.stale_for:
                return Pending(request, record, deadline, found, None, alias=alias)
            refused = self._negative.find(key)
            if refused is not None:
                return Pending(request, record, deadline, None, None, refused, alias=alias)
            renewed = self._renewal_of(key, found)
            try:
                renews = self._renews(found)
                # Nobody waits for a renewal, so it has all of the model's time.
                urgency = (
                    Urgency(max(request.priority, Priority.REFRESH), now + record.timeout)
                    if renews
                    else Urgency(request.priority, deadline)
                )
                flight = self._compute(
                    key, request, row, lease, urgency, since=moment, renewed=renewed
                )
            except RecserveError as error:
                stands_in = found if isinstance(error, Unavailable) else None
                return Pending(request, record, deadline, stands_in, None, error, alias=alias)
            if found is None or not renews:
                return Pending(request, record, deadline, found, flight, alias=alias)
            failed = self._failed_renewals.includes(key, found.created)
            return Pending(
                *(request, record, deadline, found, flight),
                revalidates=True,
                renewal_failed=failed,
                alias=alias,
            )
        finally:
            lease.release()

    def key(self, request: RecommendationRequest) -> str:
        """Return the cache key under which the answer to a request is, or would be.

        Raises:
            BadRequest: The request cannot be answered as it is.
            ModelNotReady: The model is not live in this process.
        """
        lease = self._live.lease(request.model_name, request.user_id, request.alias)
        try:
            layout = lease.version.layout
            row = None if request.features is None else layout.row(request.features)
            return self._key(request, lease.version, row)
        finally:
            lease.release()

    def _key(
        self,
        request: RecommendationRequest,
        version: LiveVersion,
        row: Row | None,
    ) -> str:
        """Return the cache key of a request to a version."""
        record = version.record
        entry = recommendation_key(
            namespace=self._namespace,
            model_name=record.model_name,
            version=record.version,
            fingerprint=version.fingerprint,
            segment=SEGMENT,
            user_id=request.user_id,
            context=request.context,
            features_digest="" if row is None else digest_features(row),
            generation="",
        )
        scopes = scopes_of(
            user_id=request.user_id,
            model_name=record.model_name,
            version=record.version,
            segment=SEGMENT,
            tags=tags_of(request.context) if request.context else (),
        )
        return in_generation(entry, self._generations.of(scopes, entry))

    def _find(self, key: str, request: RecommendationRequest) -> Found | None:
        """Return what the cache has, if it is deep enough, and not too stale, for the request."""
        found = self._levels.find(key)
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

    def _compute(
        self,
        key: str,
        request: RecommendationRequest,
        row: Row | None,
        lease: Lease,
        urgency: Urgency,
        *,
        since: int,
        renewed: Callable[[Future[Ranking]], None] | None,
    ) -> Future[Ranking]:
        """Return the future of the key's ranking; the first to ask starts its computation.

        While another process computes it, this one waits for half of the caller's seconds at most:
        the other half is for computing it here, if nothing comes. ``renewed`` hears how a
        computation ends that this call has started.
        """
        depth = self._depth_for(request)
        flight, leads = self._flights.join((key, depth), since=since)
        if not leads:
            if (joined := self._urgencies.get((key, depth))) is not None:
                joined.join(urgency.priority, urgency.deadline)
            return flight
        if renewed is not None:
            flight.add_done_callback(renewed)
        self._urgencies[key, depth] = urgency
        flight.add_done_callback(lambda _: self._forget(key, depth, urgency))
        try:
            if row is None:
                row = lease.version.features_of(request.user_id, request.context)
        except BaseException as error:
            self._fail(key, depth, error)
            raise
        own = lease.share()  # keeps the version open until the computation has landed
        begin = functools.partial(self._begin, key, row, depth, lease=own, urgency=urgency)
        if self._leases is None:
            begin(None)
        else:
            self._leases.take(key, begin, within=(urgency.deadline - self._clock()) / 2)
        if flight.done() and (failure := flight.exception()) is not None:
            raise failure
        return flight

    def _begin(
        self,
        key: str,
        row: Row,
        depth: int,
        key_lease: KeyLease | None,
        *,
        lease: Lease,
        urgency: Urgency,
    ) -> None:
        """Start a computation, unless another process has made it meanwhile.

        Runs on the thread of the waits if there was something to wait for. Errors are the flight's.
        """

        def release(computed: Ranking | None = None) -> None:
            try:
                if computed is not None and self._computed is not None:
                    self._computed(lease, row, depth, computed)
            finally:
                lease.release()
                if self._leases is not None and key_lease is not None:
                    self._leases.release(key_lease)

        try:
            made = self._made_elsewhere(key, depth, key_lease)
            started = self._clock()  # what others took is none of the value's cost
            if made is None:
                computation = self._queue(lease.version, key, row, depth, urgency)
        except BaseException as error:  # noqa: BLE001  (handed to every waiter)
            self._fail(key, depth, error)
            release()
            return
        if made is None:
            computation.add_done_callback(
                lambda done: self._landed(done, key, depth, started, release)
            )
        else:
            self._flights.resolve((key, depth), made)
            release()

    def _queue(
        self,
        version: LiveVersion,
        key: str,
        row: Row,
        depth: int,
        urgency: Urgency,
    ) -> Future[Ranking]:
        """Queue a row as urgently as those say who wait for it, now and later."""
        priority, deadline = urgency.priority, urgency.deadline
        computation = version.submit(
            row, depth, seconds=deadline - self._clock(), priority=priority, key=key
        )
        urgency.queued(
            priority,
            deadline,
            lambda better, later: version.raise_priority(
                computation, better, seconds=later - self._clock()
            ),
        )
        return computation

    def _forget(self, key: str, depth: int, urgency: Urgency) -> None:
        """Forget how urgent a flight was that has landed; another may be under way already."""
        if self._urgencies.get((key, depth)) is urgency:
            self._urgencies.pop((key, depth), None)

    def _made_elsewhere(self, key: str, depth: int, key_lease: KeyLease | None) -> Ranking | None:
        """Return the ranking that another process stored before we had the key's lease."""
        if key_lease is None or not key_lease.stored:
            return None
        found = self._levels.find(key)
        if found is None or found.stale_for or found.value.cut(depth, ()) is None:
            return None
        ranking: Ranking = found.value
        return ranking

    def _landed(
        self,
        done: Future[Ranking],
        key: str,
        depth: int,
        started: float,
        release: Callable[[Ranking | None], None],
    ) -> None:
        """Store a computed ranking, and hand it to all who wait. Runs on a batcher thread."""
        ranking = None
        try:
            error = done.exception()
            if error is not None:
                self._fail(key, depth, error)
                return
            ranking = done.result()
            cost = self._clock() - started
            lifetime = self._freshness.lifetime(cost, self._rng)
            try:
                self._levels.store(key, ranking, ttl=lifetime.ttl, stale=lifetime.stale, cost=cost)
            finally:
                self._flights.resolve((key, depth), ranking)
        finally:
            release(ranking)

    def _fail(self, key: str, depth: int, error: BaseException) -> None:
        """Hand an error to all who wait, and remember it if it is the question's fault."""
        self._negative.remember(key, error)
        self._flights.fail((key, depth), error)

    def _depth_for(self, request: RecommendationRequest) -> int:
        """Return a depth that leaves ``k`` items whatever is excluded, in powers of two."""
        depth = self._depth
        while depth < request.k + len(request.exclude):
            depth *= 2
        return depth

    def _finish(
        self, request: RecommendationRequest, pending: Pending | RecserveError, started: float
    ) -> Recommendation | RecserveError:
        """Return the answer, or a fallback's answer, or the error; count it."""
        result: Recommendation | RecserveError
        lookup = None
        if isinstance(pending, RecserveError):
            result = pending
        else:
            try:
                result = pending.result(self._clock())
            except RecserveError as error:
                result = error
            lookup = _lookup(result)
        if isinstance(result, Unavailable):
            stand_in = self._fallback(request, result)
            result = result if stand_in is None else replace(stand_in, degraded=True)
        self._counts.count(
            request.model_name, result, self._clock() - started, segment=SEGMENT, lookup=lookup
        )
        return result

    def stats(self) -> dict[str, RecommenderStats]:
        """Return what was counted, by model name."""
        return self._counts.stats()

    def negative_stats(self) -> NegativeStats:
        """Return what was counted of questions that were refused out of the cache."""
        return self._negative.stats()


def _lookup(result: Recommendation | RecserveError) -> str:
    """Return how the look-up in the cache ended that led to a result."""
    if isinstance(result, Recommendation):
        return MISS if result.source == "model" else result.source
    return (isinstance(result, InvalidInput) and result.source) or MISS
