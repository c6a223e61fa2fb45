"""What an engine counted of its runs of the model, by how many rows they had."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["RunCounter", "RunCounts", "SizeCounts"]


@dataclass(frozen=True, slots=True)
class SizeCounts:
    """Runs of one size."""

    runs: int = 0
    input_seconds: float = 0.0
    """Making tensors of rows."""
    infer_seconds: float = 0.0
    """In the model."""
    output_seconds: float = 0.0
    """Making answers of its outputs."""

    def plus(self, other: SizeCounts) -> SizeCounts:
        """Return both together."""
        return SizeCounts(
            self.runs + other.runs,
            self.input_seconds + other.input_seconds,
            self.infer_seconds + other.infer_seconds,
            self.output_seconds + other.output_seconds,
        )


@dataclass(frozen=True, slots=True)
class RunCounts:
    """What was counted."""

    by_size: dict[int, SizeCounts] = field(default_factory=dict)
    """Runs that gave outputs, by their exact number of rows."""
    failed: int = 0
    """Works that got an error from the model."""
    last: float = 0.0
    """When the last run ended, in Unix seconds; 0: there was none."""

    @property
    def runs(self) -> int:
        """How many runs there were."""
        return sum(each.runs for each in self.by_size.values())

    @property
    def rows(self) -> int:
        """How many rows they had together."""
        return sum(size * each.runs for size, each in self.by_size.items())

    @classmethod
    def merged(cls, parts: Sequence[RunCounts]) -> RunCounts:
        """Return the counts of several engines as one's."""
        sizes: dict[int, SizeCounts] = {}
        for part in parts:
            for size, counts in part.by_size.items():
                sizes[size] = sizes.get(size, SizeCounts()).plus(counts)
        return cls(
            dict(sorted(sizes.items())),
            sum(part.failed for part in parts),
            max((part.last for part in parts), default=0.0),
        )


class RunCounter:
    """Counts runs. Any thread counts.

    Args:
        wall: Unix seconds.
    """

    def __init__(self, *, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._lock = threading.Lock()
        self._by_size: dict[int, list[float]] = {}
        self._failed = 0
        self._last = 0.0

    def ran(self, rows: int, *, at: tuple[float, float, float, float]) -> None:
        """Count a run.

        Args:
            rows: How many rows it had.
            at: When its tensors began to be made, when the model began and ended, and when the
                answers were made: seconds of one clock.
        """
        begin, started, ended, done = at
        with self._lock:
            counts = self._by_size.setdefault(rows, [0, 0.0, 0.0, 0.0])
            counts[0] += 1
            counts[1] += started - begin
            counts[2] += ended - started
            counts[3] += done - ended
            self._last = self._wall()

    def failed(self, works: int) -> None:
        """Count works that the model gave an error."""
        with self._lock:
            self._failed += works

    def counts(self) -> RunCounts:
        """Return what was counted so far."""
        with self._lock:
            return RunCounts(
                {
                    size: SizeCounts(int(runs), made, ran, answered)
                    for size, (runs, made, ran, answered) in sorted(self._by_size.items())
                },
                self._failed,
                self._last,
            )
