"""Who asked what, counted by the hour: bounded, and summed by merging."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from plugins import UserId

__all__ = [
    "EVENT_KINDS",
    "HOUR",
    "ActivityCounts",
    "Asked",
    "Counted",
    "NewEvent",
    "context_text",
    "visits",
]

HOUR = 3600
"""Seconds."""
REQUEST = "request"
"""The kind of what was asked of a model."""
EVENT_KINDS = ("view", "purchase", "rating")
"""What clients and files tell of."""
_MAX_USER = 256


class Asked(NamedTuple):
    """What is counted together: one question, as far as it makes a cache key, in one hour."""

    hour: int
    """Its start, in Unix seconds."""
    kind: str
    """`REQUEST`, or one of `EVENT_KINDS`."""
    model: str
    alias: str
    """The alias or version that was asked for; empty: none."""
    user: UserId
    context: str
    """As `context_text` writes it."""
    own_features: bool
    """Whether the caller sent features: only it can ask the same again."""

    def digest(self) -> str:
        """Return what tells this from every other, the same in every process: 32 hex digits."""
        text = json.dumps(list(self), separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(slots=True)
class Counted:
    """How often something was asked."""

    count: int
    last: float
    """When last, in Unix seconds."""
    hit: float = 0.0
    """When last the cache had a fresh answer; 0: it never had."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """Something that a user did, as a client or a file tells it."""

    user: UserId
    item: str
    kind: str
    """One of `EVENT_KINDS`."""
    model: str
    """The model whose activity it counts for."""
    at: float
    """Unix seconds."""
    value: float | None = None
    """Pieces bought, or the rating."""
    id: str | None = None
    """By which a second telling is known; None: it is not."""


class ActivityCounts:
    """Counts by what was asked. One thread at a time.

    Args:
        capacity: Different things that are counted at once; further ones are refused.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._counts: dict[Asked, Counted] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, asked: Asked, at: float, n: int = 1, *, hit: float = 0.0) -> bool:
        """Count something ``n`` times, last at ``at``; return False if there is no room for it.

        Args:
            asked: What was asked.
            at: When, in Unix seconds.
            n: How often.
            hit: When the cache had a fresh answer; 0: it had none.
        """
        counted = self._counts.get(asked)
        if counted is not None:
            counted.count += n
            counted.last = max(counted.last, at)
            counted.hit = max(counted.hit, hit)
            return True
        if len(self._counts) >= self._capacity:
            return False
        self._counts[asked] = Counted(n, at, hit)
        return True

    def merge(self, counts: Mapping[Asked, Counted]) -> int:
        """Add other counts; return how many askings there was no room for."""
        return sum(
            counted.count
            for asked, counted in counts.items()
            if not self.add(asked, counted.last, counted.count, hit=counted.hit)
        )

    def take(self) -> dict[Asked, Counted]:
        """Return all counts, and begin anew."""
        taken, self._counts = self._counts, {}
        return taken


def hour_of(at: float) -> int:
    """Return the start of the hour that an instant is in; both in Unix seconds."""
    return int(at // HOUR) * HOUR


def context_text(context: Mapping[str, Any]) -> str:
    """Return a context as JSON that gives the same cache key when it is read back.

    It is text without a NUL, which every database takes: JSON escapes them.

    Raises:
        TypeError: The context holds what JSON does not know.
        ValueError: It contains itself, or is nested too deeply, or is no valid Unicode.
    """
    if not context:
        return "{}"
    try:
        return msgspec.json.encode(context, order="deterministic").decode()
    except RecursionError as error:
        raise ValueError("The context is nested too deeply.") from error


def storable(user: UserId) -> bool:
    """Return whether a user's text fits the database."""
    if isinstance(user, str):
        return len(user) <= _MAX_USER and "\0" not in user
    return user.bit_length() <= 800  # 242 digits: cheaper to see than to count


def visits(events: Iterable[NewEvent]) -> dict[Asked, Counted]:
    """Return events as activity. What a user did at one instant counts once.

    A shop that sends each line of an invoice sends one visit.
    """
    counts = ActivityCounts(capacity=2**62)
    seen: set[tuple[str, str, UserId, float]] = set()
    for event in events:
        visit = (event.kind, event.model, event.user, event.at)
        if visit not in seen:
            seen.add(visit)
            counts.add(
                Asked(hour_of(event.at), event.kind, event.model, "", event.user, "{}", False),
                event.at,
            )
    return counts.take()
