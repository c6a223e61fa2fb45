"""How the computations of one version ended: what a roll-out compares."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from plugins import BadRequest
from serving_app.core.latency import LatencyCounts, LatencyHistogram

__all__ = ["OutcomeCounts", "Outcomes"]


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """What was counted of one version."""

    requests: int = 0
    """Computations that ended, or should have by now; bad requests and cancelled ones are none."""
    errors: int = 0
    """Those, of them, that failed, were refused, or came too late."""
    seconds: LatencyCounts = field(default_factory=lambda: LatencyCounts({}, 0.0, 0.0))
    """Of those that did not fail: from the submission to the ranking."""

    @classmethod
    def merged(cls, parts: Iterable[OutcomeCounts]) -> OutcomeCounts:
        """Return the counts of several processes as one's."""
        parts = list(parts)
        return cls(
            requests=sum(part.requests for part in parts),
            errors=sum(part.errors for part in parts),
            seconds=LatencyCounts.merged(part.seconds for part in parts),
        )


class Outcomes:
    """Counts how computations end. Any thread counts.

    Each computation counts once, however many requests wait for it, so that one failure is not
    taken for fifty.

    Args:
        timeout: Seconds after which a computation is late, whatever comes of it. One that never
            ends is an error from then on.
        clock: Monotonic seconds.
    """

    def __init__(self, timeout: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._requests = self._errors = 0
        self._seconds = LatencyHistogram()
        self._under_way: dict[int, float] = {}

    def watch(self, computation: Future[Any]) -> None:
        """Count a computation when it ends."""
        started, number = self._clock(), id(computation)
        with self._lock:
            self._under_way[number] = started
        computation.add_done_callback(self._ended)

    def failed(self) -> None:
        """Count a computation that could not begin."""
        with self._lock:
            self._requests += 1
            self._errors += 1

    def _ended(self, computation: Future[Any]) -> None:
        with self._lock:
            seconds = self._clock() - self._under_way.pop(id(computation))
            if computation.cancelled():
                return
            error = computation.exception()
            if isinstance(error, BadRequest):
                return
            self._requests += 1
            failed = error is not None or seconds > self._timeout
            self._errors += failed
        if not failed:
            self._seconds.record(seconds)

    def counts(self) -> OutcomeCounts:
        """Return what was counted so far."""
        with self._lock:
            since = self._clock() - self._timeout
            overdue = sum(started < since for started in self._under_way.values())
            return OutcomeCounts(
                self._requests + overdue, self._errors + overdue, self._seconds.counts()
            )
