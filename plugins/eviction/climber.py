"""A hill climber that finds a window's size by the hit ratio."""

from __future__ import annotations

__all__ = ["HillClimber"]

_STEP = 0.0625
_DECAY = 0.98
_RESTART = 0.05
_LARGEST = 0.8
_SAMPLE = 10


class HillClimber:
    """Moves a window's size in steps, and turns around when the hit ratio falls.

    Caffeine's law: after ten requests per entry, keep the direction if the hit ratio held or
    rose, else reverse it; each step is 2 % smaller than the last, and a change of 5 points or
    more starts again with 6.25 % of the capacity. Deviations: the first direction is to grow,
    and the window takes at most 80 % of the capacity.

    Args:
        capacity: What window and main part weigh together.
        share: The window's share of it at first.
    """

    def __init__(self, capacity: int, share: float) -> None:
        self._capacity = capacity
        self._size = max(1.0, share * capacity)
        self._step = _STEP * capacity
        self._hits = self._requests = 0
        self._ratio: float | None = None  # of the last sample
        self.window = int(self._size)
        """What the window may weigh."""

    def count(self, *, hit: bool, entries: int) -> None:
        """Count one request; move at the end of a sample."""
        self._hits += hit
        self._requests += 1
        if self._requests >= _SAMPLE * max(entries, 16):
            self._climb()

    def _climb(self) -> None:
        ratio = self._hits / self._requests
        self._hits = self._requests = 0
        change = 0.0 if self._ratio is None else ratio - self._ratio
        self._ratio = ratio
        move = self._step if change >= 0 else -self._step
        largest = max(1.0, _LARGEST * self._capacity)
        self._size = min(max(1.0, self._size + move), largest)
        self.window = int(self._size)
        if abs(change) >= _RESTART:
            self._step = _STEP * self._capacity * (1 if move >= 0 else -1)
        else:
            self._step = _DECAY * move

    def check(self) -> None:
        """Verify the size.

        Raises:
            AssertionError: It is out of range.
        """
        assert 1 <= self.window <= max(1, int(_LARGEST * self._capacity)), "the window's size"
