"""Who is on a list that an operator gives."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from plugins.contracts import Priority, RecommendationRequest
from plugins.errors import InvalidOptions
from plugins.options import did_you_mean
from plugins.warmup_contracts import ActivityView, WarmupCandidate, question_of

__all__ = ["FromList", "Listed", "best_of", "read_request"]

_FIELDS = ("user_id", "context", "features", "k", "score")
_MOST_K = 100_000


class FromList:
    """Warms the users, or the complete requests, of a list, in its order.

    Args:
        users: Ids of users who ask without a context, or with the one given.
        context: The context in which they ask.
        requests: Requests as a client sends them: user_id, context, features, k; and score, how
            often a day it is expected.
    """

    def __init__(
        self,
        *,
        users: list[str | int] | None = None,
        context: dict[str, Any] | None = None,
        requests: list[dict[str, Any]] | None = None,
    ) -> None:
        for name, value in (("users", users), ("requests", requests)):
            if value is not None and not isinstance(value, list | tuple):
                raise InvalidOptions(f"The option {name!r} must be a list, not {value!r}.")
        if not users and not requests:
            raise InvalidOptions("Give users, requests or both: there is nobody to warm.")
        shared = {} if context is None else {"context": context}
        self._listed = [
            read_request({"user_id": user, **shared}, f"users[{i}]")
            for i, user in enumerate(users or ())
        ]
        self._listed += [
            read_request(request, f"requests[{i}]") for i, request in enumerate(requests or ())
        ]

    def candidates(self, activity: ActivityView, limit: int) -> Iterator[WarmupCandidate]:
        """Yield what is on the list, by score, and as it stands there."""
        yield from best_of(self._listed, activity, limit, "on the list")


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a list, checked; for which model, the run says."""

    request: RecommendationRequest
    score: float


def read_request(given: Any, where: str) -> Listed:
    """Return what a line says.

    Raises:
        InvalidOptions: Something in it is wrong; the message says what, and where.
    """
    if not isinstance(given, Mapping):
        raise InvalidOptions(f"{where} must be a mapping with user_id, not {_short(given)}.")
    for name in given:
        if name not in _FIELDS:
            raise InvalidOptions(
                f"{where}: {name!r} is no field.{did_you_mean(name, _FIELDS)} "
                f"The fields are {', '.join(_FIELDS)}."
            )
    user: Any = given.get("user_id")
    context, k = given.get("context", {}), given.get("k", 10)
    features, score = given.get("features"), given.get("score", 1.0)
    for good, name, must, value in (
        (type(user) in {str, int} and user != "", "user_id", "text or a whole number", user),
        (isinstance(context, Mapping), "context", "a mapping", context),
        (
            features is None or isinstance(features, Mapping | list),
            "features",
            "a mapping or a list",
            features,
        ),
        (type(k) is int and 0 < k <= _MOST_K, "k", f"a whole number from 1 to {_MOST_K}", k),
        (_is_score(score), "score", "a number, 0 or more", score),
    ):
        if not good:
            raise InvalidOptions(f"{where}: {name} must be {must}, not {_short(value)}.")
    request = RecommendationRequest(
        user_id=user,
        context=dict(context),
        features=features,
        k=k,
        priority=Priority.WARM_UP,
    )
    try:
        question_of(request)
    except (TypeError, ValueError) as error:
        raise InvalidOptions(f"{where}: context and features must be JSON: {error}.") from error
    return Listed(request, float(score))


def _is_score(value: Any) -> bool:
    return type(value) in {int, float} and math.isfinite(value) and value >= 0


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def best_of(
    listed: Iterable[Listed], activity: ActivityView, limit: int, reason: str
) -> list[WarmupCandidate]:
    """Return the best of a list of any length, in memory of as many as are wanted.

    A question that is listed twice counts where it is better, or first.
    """
    heap: list[tuple[float, int, str]] = []
    kept: dict[str, Listed] = {}
    for place, each in enumerate(listed):
        rank = each.score, -place
        question = question_of(each.request)
        if question in kept:
            if kept[question].score >= each.score:
                continue
            heap = [item for item in heap if item[2] != question]
            heapq.heapify(heap)
            del kept[question]
        if len(kept) == limit:
            if not heap or rank <= heap[0][:2]:
                continue
            del kept[heapq.heappop(heap)[2]]
        kept[question] = each
        heapq.heappush(heap, (*rank, question))
    chosen = []
    for score, _, question in sorted(heap, reverse=True):
        asks = kept[question].request
        request = RecommendationRequest(
            user_id=asks.user_id,
            model_name=activity.model_name,
            alias=activity.alias,
            features=asks.features,
            context=asks.context,
            k=asks.k,
            priority=Priority.WARM_UP,
        )
        chosen.append(WarmupCandidate(request, score, reason))
    return chosen
