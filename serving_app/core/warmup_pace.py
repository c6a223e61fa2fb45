"""How fast a warm-up goes: never faster than told, and the slower the busier the model is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Load", "Pace"]

_LOOK = 0.02
"""Seconds until the queue is looked at again, at first, while live requests wait in it."""
_LONGEST_LOOK = 0.5
_SMOOTHING = 0.2
_LEAST_IDLE = 0.05


@dataclass(frozen=True, slots=True)
class Load:
    """What a model is doing at one instant."""

    queued: int
    """Rows that wait."""
    running: int
    """Batches that run."""


class Pace:
    """Says when the next batch may go. One thread uses it.

    Between two batches is the longest of what the rate asks for and what lets the warm-up have no
    more than ``share`` of the time; both grow as the model is seen to be busy with others. And no
    batch goes while others' rows wait: the model takes what waits before ours, but a batch of
    ours that runs already is in their way.

    Args:
        rate: Requests a second, at most.
        share: The part of the time, at most, in which the warm-up asks the model.
        load: Looks at the model; None: what it does is not known.
        pause: Waits so many seconds; returns whether to go on.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        rate: float,
        share: float,
        load: Callable[[], Load | None],
        pause: Callable[[float], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = rate
        self._share = share
        self._load = load
        self._pause = pause
        self._clock = clock
        self._earliest = clock()
        self.busy = 0.0
        """The part of the looks, lately, at which the model was busy with others."""
        self.yielded = 0
        """How often a batch stood back, since others' rows waited."""

    def wait(self) -> bool:
        """Return once the next batch may go, whether it shall: False if it was told to stop."""
        if not self._pause(max(0.0, self._earliest - self._clock())):
            return False
        look = _LOOK
        while self._waits():
            self.yielded += 1
            if not self._pause(look):
                return False
            look = min(2 * look, _LONGEST_LOOK)
        return True

    def _waits(self) -> bool:
        load = self._load()
        if load is None:
            return False
        busy = load.queued > 0 or load.running > 0
        self.busy += _SMOOTHING * (busy - self.busy)
        return load.queued > 0

    def went(self, requests: int, seconds: float) -> None:
        """Hear that a batch has taken so long, and how many requests the model got of it."""
        rest = max(requests / self._rate - seconds, seconds * (1 / self._share - 1))
        self._earliest = self._clock() + max(0.0, rest) / max(_LEAST_IDLE, 1 - self.busy)
