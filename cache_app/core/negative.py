"""Questions that have no answer, remembered for a short time: negative entries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plugins.errors import InvalidInput

__all__ = ["NegativeEntries", "NegativeStats"]

CAPACITY = 10_000
"""Questions remembered at most. It is a room of their own: a flood of questions about users that
nobody knows evicts no answer."""
SOURCE = "negative"
"""What `InvalidInput.source` says of an error out of here."""


@dataclass(frozen=True, slots=True)
class NegativeStats:
    """What was counted of negative entries."""

    entries: int = 0
    """How many are remembered, those that have expired since not counted."""
    hits: int = 0
    """Questions refused out of them."""
    insertions: int = 0
    evictions: int = 0
    """Entries that left before their time, for want of room."""

    @classmethod
    def merged(cls, parts: Sequence[NegativeStats]) -> NegativeStats:
        """Return the counts of several processes as one's."""
        return cls(
            entries=sum(part.entries for part in parts),
            hits=sum(part.hits for part in parts),
            insertions=sum(part.insertions for part in parts),
            evictions=sum(part.evictions for part in parts),
        )


@dataclass(frozen=True, slots=True)
class _Refusal:
    message: str
    field: str
    expires: float


class NegativeEntries:
    """The refusals of this process, by key. Any thread calls it; each step is O(1).

    Only `InvalidInput` is remembered: it is about the question, and will be said again. What is
    our fault (`Unavailable`) never is, for it may pass at any moment.

    They stay in the process, and are not written to the levels below: whoever asks for a user that
    does not exist costs each process one look into the feature source per ``ttl``, and shared
    levels keep only what can be served.

    Args:
        ttl: Seconds that a refusal is remembered; 0: it is not.
        capacity: The most refusals; the oldest leaves first.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        ttl: float = 0.0,
        *,
        capacity: int = CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl = ttl
        self._capacity = capacity
        self._clock = clock
        self._lock = threading.Lock()
        self._refusals: dict[str, _Refusal] = {}
        """In the order of their expiry, as all live equally long."""
        self._hits = self._insertions = self._evictions = 0

    def find(self, key: str) -> InvalidInput | None:
        """Return the error to raise for a key, or None. The key's generation counts, as ever."""
        refusal = self._refusals.get(key)
        if refusal is None or refusal.expires <= self._clock():
            return None
        with self._lock:
            self._hits += 1
        # A new one each time: a raised exception holds on to its frames.
        return InvalidInput(refusal.message, field=refusal.field, source=SOURCE)

    def remember(self, key: str, error: BaseException) -> None:
        """Remember that a question was refused; other errors are not remembered."""
        if not self._ttl or not isinstance(error, InvalidInput):
            return
        with self._lock:
            now = self._clock()
            self._drop_expired(now)
            self._refusals.pop(key, None)
            if len(self._refusals) >= self._capacity:
                del self._refusals[next(iter(self._refusals))]
                self._evictions += 1
            self._refusals[key] = _Refusal(str(error), error.field, now + self._ttl)
            self._insertions += 1

    def _drop_expired(self, now: float) -> None:
        while self._refusals:
            oldest = next(iter(self._refusals))
            if self._refusals[oldest].expires > now:
                return
            del self._refusals[oldest]

    def stats(self) -> NegativeStats:
        """Return the counts."""
        with self._lock:
            self._drop_expired(self._clock())
            return NegativeStats(len(self._refusals), self._hits, self._insertions, self._evictions)
