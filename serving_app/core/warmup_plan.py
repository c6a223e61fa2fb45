"""What a warm-up would warm: candidates of several strategies, merged, without duplicates."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from plugins import (
    ActivityView,
    PluginError,
    Priority,
    RecommendationRequest,
    RecserveError,
    WarmupCandidate,
    WarmupStrategy,
    question_of,
)

__all__ = ["Interrupted", "Planned", "Weighted", "plan", "question_digest"]


class Interrupted(Exception):
    """Choosing shall not go on. What an `ActivityView` raises it with ends the choosing, too."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """A strategy, and what its scores count."""

    name: str
    strategy: WarmupStrategy
    weight: float = 1.0


@dataclass(slots=True)
class Planned:
    """One question that is to be warmed."""

    request: RecommendationRequest
    digest: str
    """What tells the question from every other."""
    score: float
    """The sum of what its strategies say, each by its weight."""
    reasons: dict[str, str]
    """Why, by strategy."""
    renew_before: float = 0.0
    """Seconds: an answer that stays fresh for no longer is computed anew."""

    @property
    def reason(self) -> str:
        """All reasons as one text."""
        return "; ".join(f"{name}: {why}" for name, why in self.reasons.items())


def question_digest(request: RecommendationRequest) -> str:
    """Return what two requests share if one entry answers both: 32 hex digits.

    Raises:
        TypeError: The context, or a feature, is no JSON.
        ValueError: It contains itself, or a number that JSON does not know.
    """
    text = question_of(request).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def plan(
    strategies: Sequence[Weighted],
    activity: ActivityView,
    budget: int,
    *,
    going_on: Callable[[], bool] = lambda: True,
    failed: Callable[[str, Exception], object] | None = None,
) -> list[Planned]:
    """Return at most ``budget`` questions, the best first.

    A question that several strategies name counts with the sum of their scores.

    Args:
        strategies: Who is asked, in this order; each for as many as may be warmed.
        activity: What they see.
        budget: How many questions at most.
        going_on: Asked now and then; when it is False, choosing ends.
        failed: Told of what a strategy did wrong, with its name.

    Raises:
        PluginError: A strategy failed, or gave what is no candidate of this model.
        Interrupted: It shall not go on.
    """
    found: dict[str, Planned] = {}
    for weighted in strategies:
        try:
            for n, candidate in enumerate(
                islice(weighted.strategy.candidates(activity, budget), budget)
            ):
                if n % 16 == 0:
                    time.sleep(0)  # whoever waits for the interpreter goes first
                    if not going_on():
                        raise Interrupted
                _add(found, candidate, weighted, activity.model_name)
        except Interrupted:
            raise
        except Exception as error:
            if failed is not None:
                failed(weighted.name, error)
            if isinstance(error, RecserveError):
                raise
            raise PluginError(
                f"The warm-up strategy {weighted.name!r} failed: {type(error).__name__}: {error}"
            ) from error
    # The sort is stable: of equal scores, who was named first goes first.
    return sorted(found.values(), key=lambda each: -each.score)[:budget]


def _add(
    found: dict[str, Planned], candidate: WarmupCandidate, weighted: Weighted, model: str
) -> None:
    request = candidate.request
    if request.model_name != model:
        raise PluginError(
            f"The warm-up strategy {weighted.name!r} named a question for the model "
            f"{request.model_name!r}, but {model!r} is warmed."
        )
    if not math.isfinite(candidate.score):
        raise PluginError(
            f"The warm-up strategy {weighted.name!r} gave the score {candidate.score!r}."
        )
    if request.priority != Priority.WARM_UP:
        request = replace(request, priority=Priority.WARM_UP)
    digest = question_digest(request)
    score = weighted.weight * candidate.score
    ahead = float(getattr(weighted.strategy, "renew_before", 0.0))
    known = found.get(digest)
    if known is None:
        reasons = {weighted.name: candidate.reason}
        found[digest] = Planned(request, digest, score, reasons, ahead)
        return
    known.score += score
    known.reasons.setdefault(weighted.name, candidate.reason)
    known.renew_before = max(known.renew_before, ahead)
    if request.k + len(request.exclude) > known.request.k + len(known.request.exclude):
        known.request = request  # the deeper answer serves the other, too
