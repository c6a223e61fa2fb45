"""The main path: cache, then model, then fallback."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass

from cache_app.core.keys import digest_features, recommendation_key
from cache_app.core.levels import Levels
from cache_app.core.single_flight import SingleFlight
from plugins import (
    BadRequest,
    DeadlineExceeded,
    Recommendation,
    RecommendationRequest,
    RecserveError,
    Unavailable,
)
from serving_app.core.latency import LatencyHistogram, LatencySummary
from serving_app.core.live_models import Lease, LiveModels
from serving_app.core.live_version import VersionRecord
from serving_app.core.ranking import Ranking

SEGMENT = "all"
"""The segment of every user."""


@dataclass(frozen=True, slots=True)
class RecommenderStats:
    """What was asked of one model in this process."""

    requests: int
    by_source: dict[str, int]
    """Answers by source: ``model``, ``l1``, ``fallback``, …"""
    errors: dict[str, int]
    """Refused or failed requests by error."""
    seconds: LatencySummary
    """From the request to its answer."""


class _Counts:
    """Mutable counts of one model."""

    def __init__(self) -> None:
        self.by_source: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.seconds = LatencyHistogram()


class Pending:
    """An answer on its way. `result` waits for it."""

    __slots__ = ("_deadline", "_future", "_record", "_request", "_source")

    def __init__(
        self,
        request: RecommendationRequest,
        record: VersionRecord,
        future: Future[Ranking],
        *,
        source: str,
        deadline: float,
    ) -> None:
        self._request = request
        self._record = record
        self._future = future
        self._source = source
        self._deadline = deadline

    def result(self, now: float) -> Recommendation:
        """Wait for the ranking, at most until the deadline, and return its best items.

        Raises:
            DeadlineExceeded: The deadline came first.
            RecserveError: What the computation raised.
        """
        try:
            ranking = self._future.result(max(0.0, self._deadline - now))
        except FutureTimeoutError as error:
            raise DeadlineExceeded(
                f"{self._record.label} did not answer within its deadline."
            ) from error
        request = self._request
        cut = ranking.cut(request.k, request.exclude)
        assert cut is not None, "submit asks for a depth that the request cannot exhaust"
        items, scores = cut
        return Recommendation(
            user_id=request.user_id,
            items=items,
            scores=scores,
            model_name=self._record.model_name,
            model_version=self._record.version,
            source=self._source,
        )


class Recommender:
    """Answers recommendation requests. Any thread calls it, many at once.

    Args:
        live: The models that answer in this process.
        levels: The cache.
        fallback: Answers when a model cannot, or returns None.
        namespace: First part of every cache key.
        ttl: Seconds that a computed ranking is served.
        depth: How deep a ranking is computed and cached at least; one entry serves every ``k``
            (with its exclusions) up to it.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        live: LiveModels,
        levels: Levels,
        *,
        fallback: Callable[[RecommendationRequest, Unavailable], Recommendation | None],
        namespace: str,
        ttl: float,
        depth: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live = live
        self._levels = levels
        self._fallback = fallback
        self._namespace = namespace
        self._ttl = ttl
        self._depth = depth
        self._clock = clock
        self._flights: SingleFlight[tuple[str, int], Ranking] = SingleFlight()
        self._counts: dict[str, _Counts] = {}
        self._counts_lock = threading.Lock()

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
        """Look the request up, or start its computation (or join the one under way)."""
        lease: Lease | None = self._live.lease(request.model_name)
        assert lease is not None, "lease raises, or returns one"
        version, release = lease.version, lease.release
        try:
            record = version.record
            # Given features are checked even if the answer is cached: a hit hides no bad request.
            row = None if request.features is None else version.layout.row(request.features)
            key = recommendation_key(
                namespace=self._namespace,
                model_name=record.model_name,
                version=record.version,
                segment=SEGMENT,
                user_id=request.user_id,
                context=request.context,
                features_digest="" if row is None else digest_features(row),
            )
            deadline = now + (record.timeout if request.timeout is None else request.timeout)
            found = self._levels.find(key)
            if found is not None and found.value.cut(request.k, request.exclude) is not None:
                hit: Future[Ranking] = Future()
                hit.set_result(found.value)
                return Pending(request, record, hit, source=found.level, deadline=deadline)
            depth = self._depth_for(request)
            flight, leads = self._flights.join((key, depth))
            if leads:
                try:
                    if row is None:
                        row = version.features_of(request.user_id, request.context)
                    computation = version.submit(row, depth)
                except BaseException as error:
                    self._flights.fail((key, depth), error)
                    raise
                computation.add_done_callback(lambda done: self._landed(done, key, depth, release))
                lease = None  # the computation has it now, and gives it back
            return Pending(request, record, flight, source="model", deadline=deadline)
        finally:
            if lease is not None:
                lease.release()

    def _landed(
        self, done: Future[Ranking], key: str, depth: int, release: Callable[[], None]
    ) -> None:
        """Store a computed ranking, and hand it to all who wait. Runs on a batcher thread."""
        try:
            error = done.exception()
            if error is not None:
                self._flights.fail((key, depth), error)
                return
            ranking = done.result()
            try:
                self._levels.store(key, ranking, ttl=self._ttl)
            finally:
                self._flights.resolve((key, depth), ranking)
        finally:
            release()

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
        if isinstance(pending, RecserveError):
            result = pending
        else:
            try:
                result = pending.result(self._clock())
            except RecserveError as error:
                result = error
        if isinstance(result, Unavailable):
            result = self._fallback(request, result) or result
        self._count(request.model_name, result, self._clock() - started)
        return result

    def _count(
        self, model_name: str, result: Recommendation | RecserveError, seconds: float
    ) -> None:
        if isinstance(result, BadRequest) and model_name not in self._counts:
            return  # rubbish names must not grow the statistics
        with self._counts_lock:
            counts = self._counts.setdefault(model_name, _Counts())
            if isinstance(result, RecserveError):
                counts.errors[type(result).__name__] += 1
            else:
                counts.by_source[result.source] += 1
        counts.seconds.record(seconds)

    def stats(self) -> dict[str, RecommenderStats]:
        """Return what was counted, by model name."""
        with self._counts_lock:
            return {
                name: RecommenderStats(
                    requests=counts.by_source.total() + counts.errors.total(),
                    by_source=dict(counts.by_source),
                    errors=dict(counts.errors),
                    seconds=counts.seconds.summary(),
                )
                for name, counts in self._counts.items()
            }
