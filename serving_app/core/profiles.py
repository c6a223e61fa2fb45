"""What a user likes, as a short vector: weights of terms, of which recent events count more."""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from serving_app.core.segment_rules import DAY

__all__ = ["MOST_TERMS", "Profile", "TitleTerms", "feature_profile", "prefix_terms", "profile_of"]

MOST_TERMS = 64
"""Terms of a profile; the heaviest stay."""

Profile = Mapping[str, float]
"""Weights by term, of length 1, unless it is empty."""

_WORD = re.compile(r"[^\W\d_]{3,}")
_LONGEST = 64


def prefix_terms(length: int) -> Callable[[str], Mapping[str, float]]:
    """Return what makes the first characters of an item's id its one term; 0: all of them."""

    def terms(item: str) -> Mapping[str, float]:
        return {(item[:length] if length else item)[:_LONGEST]: 1.0}

    return terms


class TitleTerms:
    """The words of items' titles, of which rare ones weigh more: log(items / items with it).

    An item without a title, or without words in it, is a term itself.

    Args:
        titles: Titles by item.
    """

    def __init__(self, titles: Mapping[str, str]) -> None:
        self._words = {item: _words(title) for item, title in titles.items()}
        having = Counter(word for words in self._words.values() for word in words)
        self._weights = {w: math.log(1 + len(self._words) / n) for w, n in having.items()}

    def __call__(self, item: str) -> Mapping[str, float]:
        """Return the weights of an item's terms, of length 1."""
        words = self._words.get(item)
        if not words:
            return {f"#{item}"[:_LONGEST]: 1.0}
        return _unit({word: self._weights[word] for word in words})


def profile_of(
    deeds: Iterable[tuple[float, str, float | None]],
    terms: Callable[[str], Mapping[str, float]],
    *,
    half_life: float,
) -> Profile:
    """Return a user's profile from what it did.

    Args:
        deeds: When (Unix seconds), which item, and the value: many pieces weigh little more than
            one; what has a negative value, as a return, counts nothing.
        terms: Returns the weights of an item's terms.
        half_life: Days after which an event weighs half as much.
    """
    given = list(deeds)
    if not given:
        return {}
    latest = max(at for at, _, _ in given)
    summed: dict[str, float] = {}
    for at, item, value in given:
        if value is not None and value < 0:
            continue
        weight = 0.5 ** ((latest - at) / (half_life * DAY))
        weight *= 1.0 + math.log1p(value or 0.0) / 4
        for term, share in terms(item).items():
            summed[term] = summed.get(term, 0.0) + weight * share
    return _unit(_heaviest(summed))


def feature_profile(features: Mapping[str, float]) -> Profile:
    """Return a feature vector as a profile: its heaviest features, of length 1 together."""
    return _unit(_heaviest(features))


def _heaviest(weights: Mapping[str, float]) -> dict[str, float]:
    kept: Collection[str] = weights
    if len(weights) > MOST_TERMS:
        kept = heapq.nlargest(MOST_TERMS, weights, key=lambda term: (abs(weights[term]), term))
    return {term: weights[term] for term in kept if weights[term]}


def _unit(weights: Mapping[str, float]) -> dict[str, float]:
    length = math.hypot(*weights.values())
    if not length or not math.isfinite(length):
        return {}
    return {term: weight / length for term, weight in weights.items()}


def _words(title: str) -> set[str]:
    return {word[:_LONGEST] for word in _WORD.findall(title.lower())}
