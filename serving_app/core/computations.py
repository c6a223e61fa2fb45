"""Computations under way: one per key, leased, queued, stored, handed to all who wait."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from random import Random

from cache_app.core.freshness import Freshness
from cache_app.core.lease_waits import KeyLease, LeaseWaits
from cache_app.core.levels import Found, Levels
from cache_app.core.negative import NegativeEntries
from cache_app.core.single_flight import Flight, SingleFlight
from cache_app.core.steps import Runner
from plugins import Priority
from plugins.contracts import InsertOrigin
from serving_app.core.features import Row
from serving_app.core.live_models import Lease
from serving_app.core.ranking import Ranking
from serving_app.core.urgency import Urgency

__all__ = ["Computations"]


class _Computation:
    """One flight, and what is known of its work."""

    __slots__ = (
        *("depth", "flight", "freshness", "given_up", "key", "key_lease", "lease", "replaces"),
        *("row", "started", "urgency", "work"),
    )

    row: Row
    lease: Lease
    """Keeps the version open until the computation has landed."""
    started: float
    """When the row was about to be queued."""

    def __init__(
        self,
        key: str,
        depth: int,
        flight: Flight[Ranking],
        urgency: Urgency,
        freshness: Freshness,
        *,
        replaces: float | None = None,
    ) -> None:
        self.key = key
        self.depth = depth
        self.flight = flight
        self.urgency = urgency
        self.replaces = replaces
        """When the fresh value was made that this one replaces; None: there is none."""
        self.freshness = freshness
        self.key_lease: KeyLease | None = None
        self.work: Future[Ranking] | None = None
        """What is queued; None: nothing is yet, or another process computes it."""
        self.given_up = False
        """Whether nobody waits any more."""


class Computations:
    """Computes what the cache does not have. Any thread calls it, many at once.

    Args:
        levels: The cache, where what was computed is stored.
        freshness: How long that is fresh.
        negative: Remembers questions that were refused.
        computed: See `serving_app.core.recommender.Recommender`.
        leases: Lets one process of all that share a level compute a key; None: each does.
        runner: Looks into levels, and stores in them.
        clock: Monotonic seconds.
        rng: Draws jitter.
    """

    def __init__(
        self,
        levels: Levels,
        *,
        freshness: Freshness,
        negative: NegativeEntries,
        computed: Callable[[Lease, Row, int, Ranking], None] | None,
        leases: LeaseWaits | None,
        runner: Runner,
        clock: Callable[[], float] = time.monotonic,
        rng: Random,
    ) -> None:
        self._levels = levels
        self._freshness = freshness
        self._negative = negative
        self._computed = computed
        self._leases = leases
        self._runner = runner
        self._clock = clock
        self._rng = rng
        self._flights: SingleFlight[tuple[str, int], Ranking] = SingleFlight()
        self._under_way: dict[tuple[str, int], _Computation] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def moment(self) -> int:
        """Return what `start` takes as ``since``: call it before looking into the cache."""
        return self._flights.moment()

    def start(
        self,
        key: str,
        depth: int,
        features: Callable[[], Row],
        lease: Lease,
        urgency: Urgency,
        *,
        since: int,
        renewed: Callable[[Future[Ranking]], None] | None,
        replaces: float | None = None,
        freshness: Freshness | None = None,
    ) -> Flight[Ranking]:
        """Return the future of the key's ranking; the first to ask starts its computation.

        While another process computes it, this one waits for half of the caller's seconds at most:
        the other half is for computing it here, if nothing comes. Whoever does not wait any more
        calls `leave`.

        Args:
            key: The cache key.
            depth: How many items are wanted.
            features: Returns the row; called by the first to ask alone.
            lease: The version.
            urgency: Of the caller.
            since: The `moment` before the caller looked into the cache.
            renewed: Hears how the computation ends, if this call has started it.
            replaces: When the value was made that is to be replaced although it is fresh.
            freshness: How long its result is fresh; None: as everyone's.
        """
        flight, leads = self._flights.join((key, depth), since=since)
        if not leads:
            if (joined := self._under_way.get((key, depth))) is not None:
                joined.urgency.join(urgency.priority, urgency.deadline)
            return flight
        computation = _Computation(
            key, depth, flight, urgency, freshness or self._freshness, replaces=replaces
        )
        if renewed is not None:
            flight.add_done_callback(renewed)
        self._under_way[key, depth] = computation
        try:
            computation.row = features()
        except BaseException as error:
            self._fail(computation, error)
            raise
        computation.lease = lease.share()
        if self._leases is None:
            self._begin(computation, None)
        else:
            begin = functools.partial(self._begin, computation)
            self._leases.take(key, begin, within=(urgency.deadline - self._clock()) / 2)
        if flight.done() and (failure := flight.exception()) is not None:
            raise failure
        return flight

    def leave(self, key: str, depth: int, flight: Flight[Ranking]) -> None:
        """Stop waiting for a flight; what nobody waits for is taken out of the queue.

        What runs already goes on, and is stored. The flight of what does not is cancelled.
        """
        computation = self._under_way.get((key, depth))
        if computation is None or computation.flight is not flight:
            return
        work = computation.work
        if (work is not None and work.running()) or not self._flights.leave((key, depth), flight):
            return
        computation.given_up = True
        self._forget(computation)
        if (work := computation.work) is not None:
            work.cancel()

    def _begin(self, computation: _Computation, key_lease: KeyLease | None) -> None:
        """Start a computation, unless another process has made it meanwhile.

        Runs where the lease was waited for, if there was something to wait for. Errors are the
        flight's.
        """
        computation.key_lease = key_lease
        if key_lease is None or not key_lease.stored:
            self._start(computation)
        else:
            looking = self._levels.finding(computation.key)
            self._runner.run(looking, functools.partial(self._looked, computation))

    def _looked(
        self, computation: _Computation, found: Found | None, error: BaseException | None
    ) -> None:
        """Take what another process stored before we had the key's lease, or compute it."""
        if error is not None:
            self._end(computation, error)
        elif (
            found is None
            or found.stale_for
            or found.value.cut(computation.depth, ()) is None
            # It may be the one that is to be replaced.
            or (computation.replaces is not None and found.created <= computation.replaces)
        ):
            self._start(computation)
        else:
            self._resolve(computation, found.value)
            self._release(computation)

    def _start(self, computation: _Computation) -> None:
        """Queue a computation, unless nobody waits any more."""
        try:
            if computation.given_up:
                raise CancelledError
            computation.started = self._clock()  # what others took is none of the value's cost
            work = self._queue(computation)
        except BaseException as error:  # noqa: BLE001  (handed to every waiter)
            self._end(computation, error)
            return
        work.add_done_callback(functools.partial(self._landed, computation))
        if computation.given_up:  # since it was asked above; `leave` may have been too early
            work.cancel()

    def _queue(self, computation: _Computation) -> Future[Ranking]:
        """Queue a row as urgently as those say who wait for it, now and later."""
        version, urgency = computation.lease.version, computation.urgency
        priority, deadline = urgency.priority, urgency.deadline
        work = computation.work = version.submit(
            computation.row,
            computation.depth,
            seconds=deadline - self._clock(),
            priority=priority,
            key=computation.key,
        )
        urgency.queued(
            priority,
            deadline,
            lambda better, later: version.raise_priority(
                work, better, seconds=later - self._clock()
            ),
        )
        return work

    def _forget(self, computation: _Computation) -> None:
        """Forget a computation that has landed; another may be under way already."""
        key = computation.key, computation.depth
        if self._under_way.get(key) is computation:
            self._under_way.pop(key, None)

    def _landed(self, computation: _Computation, done: Future[Ranking]) -> None:
        """Store a computed ranking, then hand it to all who wait. Runs where it was read."""
        error = done.exception() if not done.cancelled() else CancelledError()
        if error is not None:
            self._end(computation, error)
            return
        ranking = done.result()
        computation.flight.note = getattr(done, "batch", None)
        cost = self._clock() - computation.started
        lifetime = computation.freshness.lifetime(cost, self._rng)
        storing = self._levels.storing(
            computation.key,
            ranking,
            ttl=lifetime.ttl,
            stale=lifetime.stale,
            origin=_origin(computation.urgency),
            cost=cost,
        )
        self._runner.run(storing, functools.partial(self._stored, computation, ranking))

    def _stored(
        self, computation: _Computation, ranking: Ranking, _: None, error: BaseException | None
    ) -> None:
        """Hand a ranking to all who wait: it is stored, as far as that was possible."""
        try:
            self._resolve(computation, ranking)
        finally:
            self._release(computation, ranking)
        if error is not None:  # it is nobody's answer; let whoever ran the steps hear of it
            raise error

    def _resolve(self, computation: _Computation, ranking: Ranking) -> None:
        """Hand a ranking to all who wait."""
        self._forget(computation)
        self._flights.resolve(
            (computation.key, computation.depth), ranking, flight=computation.flight
        )

    def _end(self, computation: _Computation, error: BaseException) -> None:
        """End a computation without a ranking."""
        try:
            self._fail(computation, error)
        finally:
            self._release(computation)

    def _fail(self, computation: _Computation, error: BaseException) -> None:
        """Hand an error to all who wait, and remember it if it is the question's fault."""
        self._negative.remember(computation.key, error)
        self._forget(computation)
        self._flights.fail((computation.key, computation.depth), error, flight=computation.flight)

    def _release(self, computation: _Computation, computed: Ranking | None = None) -> None:
        """Give back what a computation holds; say what it has computed, if it has."""
        lease = computation.lease
        try:
            if computed is not None and self._computed is not None:
                self._computed(lease, computation.row, computation.depth, computed)
        finally:
            lease.release()
            if self._leases is not None and computation.key_lease is not None:
                self._leases.release(computation.key_lease)


def _origin(urgency: Urgency) -> InsertOrigin:
    """Return why a value is stored: a warm-up's is one that nobody has asked for by now."""
    return "warmup" if urgency.priority == Priority.WARM_UP else "miss"
