"""What crosses the border between recserve and its warm-up strategies.

A strategy says which questions are worth answering before anyone asks them. It sees what has been
asked (`ActivityView`) and returns complete requests, best first; everything else, from dropping
what is fresh to the pace at which the model is asked, is done around it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Protocol

from plugins.contracts import Priority, RecommendationRequest, UserId

__all__ = ["ActivityView", "Asking", "WarmupCandidate", "WarmupStrategy", "question_of"]

_TAGS = "tags"


@dataclass(frozen=True, slots=True)
class Asking:
    """How often one question was asked in one hour."""

    user_id: UserId
    """Who asked; ``1`` and ``"1"`` are two users."""
    model_name: str
    """The model that was asked."""
    alias: str
    """The alias or version that was asked for; empty: none."""
    context: Mapping[str, Any]
    """The circumstances, as they were given."""
    hour: float
    """The start of the hour, in Unix seconds."""
    count: int
    """How often."""
    last: float
    """When last, in Unix seconds."""

    def request(self) -> RecommendationRequest:
        """Return the same question, to be answered before it is asked again."""
        return RecommendationRequest(
            user_id=self.user_id,
            model_name=self.model_name,
            alias=self.alias,
            context=self.context,
            priority=Priority.WARM_UP,
        )


class ActivityView(Protocol):
    """What a strategy may see of one model: who asked for what, and what is cached of it."""

    @property
    def model_name(self) -> str:
        """The model that is warmed."""

    @property
    def alias(self) -> str:
        """The alias or version that is warmed; empty: whatever answers who asks for none."""

    @property
    def now(self) -> float:
        """The time, in Unix seconds. It stands still while candidates are chosen."""

    @property
    def zone(self) -> tzinfo:
        """The time zone in which hours of the day are meant."""

    def askings(self, since: float, until: float) -> Iterable[Asking]:
        """Yield what was asked in hours that began in ``[since, until)``, by hour and last asking.

        Requests, and the visits that events tell of; never requests with features of their own,
        which nobody but their caller can ask again. They are read as they are taken, and may be
        millions: keep what you need of them, not them.
        """

    def fresh_for(self, request: RecommendationRequest) -> float | None:
        """Return the seconds that a cached answer is still fresh; 0: it is stale; None: none is.

        It may ask a Redis. Ask of at most ten times as many requests as you may return.
        """


@dataclass(frozen=True, slots=True)
class WarmupCandidate:
    """One question that is worth answering before it is asked."""

    request: RecommendationRequest
    """The complete question, of priority `Priority.WARM_UP`: it makes the key that is looked up."""
    score: float
    """How often it will be asked in the day to come, as far as the strategy can tell.

    Strategies that run together are weighed against each other by it.
    """
    reason: str
    """Why, in a few plain words, for who asks what a run would do."""


class WarmupStrategy(Protocol):
    """Chooses what to warm. A new one is made for each run; its parameters are its options.

    One that wants answers renewed which are fresh still has an attribute ``renew_before``: seconds;
    what it names is computed anew if it stays fresh for no longer than that. Without it, or with
    0, only what is not fresh is computed.
    """

    def candidates(self, activity: ActivityView, limit: int) -> Iterable[WarmupCandidate]:
        """Return the best candidates, best first, at most ``limit``, and no question twice.

        The same activity gives the same candidates in the same order. All of them ask
        ``activity.model_name`` and ``activity.alias``.
        """


def question_of(request: RecommendationRequest) -> str:
    """Return what a request asks, as text that two requests share if one entry answers both.

    How many items are wanted, what is excluded, the deadline and the priority say nothing.

    Raises:
        TypeError: The context, or a feature, is no JSON.
        ValueError: It contains itself, or a number that JSON does not know.
    """
    context = request.context
    tags = context.get(_TAGS) if context else None
    if tags and isinstance(tags, list | tuple) and all(isinstance(tag, str) for tag in tags):
        context = {**context, _TAGS: sorted(set(tags))}  # their order says nothing
    asked: list[Any] = [request.user_id, request.model_name, request.alias, context]
    if request.features is not None:
        asked.append(request.features)
    try:
        return json.dumps(asked, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except RecursionError as error:
        raise ValueError("The context is nested too deeply.") from error
