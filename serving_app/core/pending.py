"""An answer on its way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, NamedTuple

from cache_app.core.levels import Found
from cache_app.core.single_flight import Flight
from cache_app.core.steps import Steps, run
from plugins import (
    DeadlineExceeded,
    InvalidInput,
    Recommendation,
    RecommendationRequest,
    RecserveError,
    Unavailable,
)
from serving_app.core.features import Row
from serving_app.core.live_version import LiveVersion
from serving_app.core.ranking import Ranking
from serving_app.core.segment_table import EVERYONE
from serving_app.core.version_record import VersionRecord

__all__ = ["Looked", "Pending", "Rest"]


class Looked(NamedTuple):
    """A look into all levels, without a fresh answer."""

    key: str
    since: int
    """The moment before it, as `Computations.moment` has it."""
    found: Found | None
    """What is there that is stale, or not deep enough."""
    version: LiveVersion | None = None
    """The version whose answer was looked for; None: the key must be made once more."""
    segment: str = ""
    """The user's, with which the key was made."""
    row: Row | None = None
    """What the request's features are to the version; None: it gives none."""


class Rest:
    """What is left of a look-up: call it on a thread, or take its steps where nobody waits."""

    __slots__ = ("steps",)

    def __init__(self, steps: Steps[Pending | RecserveError | Callable[[], Any]]) -> None:
        self.steps = steps
        """They return what the call returns, or what is still to be called on a thread."""

    def __call__(self) -> Pending | RecserveError:
        """Return what comes of it; wait on this thread."""
        result = run(self.steps)
        while callable(result):
            result = result()
        return result


@dataclass(frozen=True, slots=True)
class Pending:
    """An answer that is there, on its way, or both: a stale one, and the new one."""

    request: RecommendationRequest
    record: VersionRecord
    deadline: float
    found: Found | None
    """What the cache had."""
    flight: Flight[Ranking] | None
    """The computation under way."""
    error: RecserveError | None = None
    """Why no computation was started."""
    revalidates: bool = False
    """Whether ``found``, though stale, answers while the flight goes on."""
    renewal_failed: bool = False
    """Whether the flight before this one, which should have renewed ``found``, failed."""
    alias: str = ""
    """What led to the version."""
    segment: str = EVERYONE
    """The user's, when its entry was looked up."""
    leave: Callable[[], None] | None = None
    """Says that this one does not wait for the flight any more."""

    @property
    def waits_for(self) -> Future[Ranking] | None:
        """The computation without which there is no answer yet; None: `result` waits for none."""
        if self.flight is None or self.revalidates or self.flight.done():
            return None
        return self.flight

    def cancel(self) -> None:
        """Say, once, that nobody waits for this answer.

        If that holds for all who asked for it, what is still queued is not computed. What renews a
        stale value goes on.
        """
        if self.leave is not None and not self.revalidates:
            self.leave()

    def result(self, now: float) -> Recommendation:
        """Return the answer; wait for it, if need be, at most until the deadline.

        Raises:
            InvalidInput: The model ranks too few items itself for ``k`` and the exclusions.
            DeadlineExceeded: The deadline came first, and nothing stale stands in.
            RecserveError: Why there is no computation, or what it raised, if nothing stale stands
                in.
        """
        if self.found is not None and (self.flight is None or self.revalidates):
            return self._answer(self.found.value, found=self.found, degraded=self._degraded())
        if self.flight is None:
            assert self.error is not None, "what is not found is computed, or refused"
            raise self.error
        try:
            return self._answer(self.flight.result(max(0.0, self.deadline - now)))
        # Cancelled is only what nobody waits for any more: this one's deadline came.
        except (Unavailable, FutureTimeoutError, CancelledError) as error:
            if self.found is not None:
                return self._answer(self.found.value, found=self.found, degraded=True)
            if isinstance(error, Unavailable):
                raise
            raise DeadlineExceeded(
                f"{self.record.label} did not answer within its deadline."
            ) from error

    def _degraded(self) -> bool:
        """Return whether ``found`` stands in for a model that could not renew it."""
        if self.error is not None or self.renewal_failed:
            return True
        flight = self.flight
        return flight is not None and flight.done() and isinstance(flight.exception(), Unavailable)

    def _answer(
        self, ranking: Ranking, *, found: Found | None = None, degraded: bool = False
    ) -> Recommendation:
        cut = ranking.cut(self.request.k, self.request.exclude)
        if cut is None:  # of a model that ranks itself, and no deeper
            raise InvalidInput(
                f"{self.record.label} ranks {len(ranking.items)} items itself: too few for k once "
                "the excluded ones are out.",
                field="exclude",
            )
        items, scores = cut
        return Recommendation(
            user_id=self.request.user_id,
            items=items,
            scores=scores,
            model_name=self.record.model_name,
            model_version=self.record.version,
            source="model" if found is None else found.level,
            stale_for=0.0 if found is None else found.stale_for,
            degraded=degraded,
            alias=self.alias,
        )
