"""What has been counted of each question, of a bounded number of them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from plugins.contracts import RecommendationRequest
from plugins.warmup_contracts import Asking, question_of

__all__ = ["TRACKED", "Tallies", "Tally", "best", "times"]

TRACKED = 100_000
"""Questions that a strategy keeps counts of while it reads activity: some 60 MB."""


@dataclass(slots=True)
class Tally:
    """What has been counted of one question."""

    question: str
    """As `question_of` returns it."""
    request: RecommendationRequest
    count: int = 0
    """How often it was asked."""
    weight: float = 0.0
    """The same, with what is long ago counting less."""
    last: float = 0.0
    """When last, in Unix seconds."""

    @property
    def times(self) -> str:
        """Return how often it was asked, in words."""
        return times(self.count)

    @property
    def rank(self) -> tuple[float, float, str]:
        """Return by what tallies are ordered, the best with the highest."""
        return self.weight, self.last, self.question


class Tallies:
    """Tallies of questions. When there are twice as many as wanted, the worse half is forgotten.

    So memory is bounded, whatever is read. A question that comes again after it was forgotten
    begins anew: counts are exact as long as there are fewer questions than ``tracked``, and later
    too low for those that are asked least.

    Args:
        tracked: How many are kept at least.
    """

    def __init__(self, tracked: int = TRACKED) -> None:
        self._tracked = max(1, tracked)
        self._tallies: dict[str, Tally] = {}

    def __len__(self) -> int:
        return len(self._tallies)

    def __iter__(self) -> Iterator[Tally]:
        return iter(self._tallies.values())

    def add(self, asking: Asking, weight: float, *, times: int | None = None) -> None:
        """Count an asking: as many ``times`` as it says; None: as often as it was asked."""
        request = asking.request()
        question = question_of(request)
        tally = self._tallies.get(question)
        if tally is None:
            if len(self._tallies) >= 2 * self._tracked:
                best = heapq.nlargest(self._tracked, self, key=lambda each: each.rank)
                self._tallies = {each.question: each for each in best}
            tally = self._tallies[question] = Tally(question, request)
        tally.count += asking.count if times is None else times
        tally.weight += weight
        tally.last = max(tally.last, asking.last)


def best(
    tallies: Tallies,
    limit: int,
    *,
    keep: Callable[[Tally], bool] = lambda _: True,
    score: Callable[[Tally], float] = lambda tally: tally.weight,
) -> list[Tally]:
    """Return the tallies with the highest score, the last asked first where it is equal."""
    return heapq.nlargest(
        limit,
        filter(keep, tallies),
        key=lambda tally: (score(tally), tally.last, tally.question),
    )


def times(count: int) -> str:
    """Return how often something happened, in words."""
    return "once" if count == 1 else f"{count} times"
