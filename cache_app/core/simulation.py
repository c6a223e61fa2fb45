"""What a policy would have hit: a trace replayed through the level that serves."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np

from cache_app.core.levels import Stored
from cache_app.core.memory import MemoryLevel
from cache_app.core.traces import Trace
from plugins.contracts import EvictionPolicy

__all__ = ["Progress", "SimulationResult", "belady", "simulate"]

Progress = Callable[[int, int], None]
"""Hears how many requests were replayed, and of how many."""

_CHUNK = 20_000


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What one replay counted."""

    requests: int
    hits: int
    evictions: int
    rejected: int
    """Values that were heavier than the whole capacity."""
    capacity: int

    @property
    def hit_ratio(self) -> float:
        """The share of requests that were hits."""
        return self.hits / self.requests


def simulate(
    trace: Trace,
    policy_factory: Callable[[], EvictionPolicy],
    capacity: int,
    *,
    weighed: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> SimulationResult:
    """Replay a trace through a `MemoryLevel`: look up, and store after a miss.

    Nothing expires meanwhile. The same arguments give the same result, in every process.

    Args:
        trace: The requests.
        policy_factory: Returns the eviction policy; called once.
        capacity: The most that entries may weigh together.
        weighed: Whether entries weigh what the trace says; else each weighs 1.
        seed: Of the policy's randomness.
        progress: Hears of it every some thousand requests.

    Raises:
        ValueError: The trace has no sizes, and they are asked for.
    """
    if weighed and trace.sizes is None:
        raise ValueError("The trace has no sizes.")
    level = MemoryLevel(
        policy_factory,
        capacity=capacity,
        clock=lambda: 0.0,
        rng=Random(seed),  # noqa: S311  (it samples victims, and guards no secret)
        weigh=(lambda size: size) if weighed else None,
    )
    get, put = level.get, level.put
    unit = Stored(1, 0.0, math.inf)
    for keys, sizes in _chunks(trace, progress):
        if weighed and sizes is not None:
            for key, size in zip(keys, sizes, strict=True):
                if get(key) is None:
                    put(key, Stored(size, 0.0, math.inf))
        else:
            for key in keys:
                if get(key) is None:
                    put(key, unit)
    stats = level.stats()
    return SimulationResult(len(trace), stats.hits, stats.evictions, stats.rejected, capacity)


def _chunks(
    trace: Trace, progress: Progress | None
) -> Iterator[tuple[list[str], list[int] | None]]:
    """Yield keys and sizes, some thousand at a time, and tell of it."""
    total = len(trace)
    for start in range(0, total, _CHUNK):
        part = slice(start, start + _CHUNK)
        sizes = None if trace.sizes is None else trace.sizes[part].tolist()
        yield [str(number) for number in trace.ids[part].tolist()], sizes
        if progress is not None:
            progress(min(start + _CHUNK, total), total)


def belady(trace: Trace, capacity: int, *, progress: Progress | None = None) -> float:
    """Return the highest hit ratio that a policy could have had, all entries weighing 1.

    Belady: A study of replacement algorithms for a virtual-storage computer, 1966 (MIN): the
    victim is the entry whose next use is farthest away. As there, a newcomer is always stored;
    a policy that refuses some could hit a little more. O(n log n): next uses by sorting, victims
    from a heap. The heap's items of entries that were hit since are never on top while there is
    another, as their use is over and all others' is to come.

    Args:
        trace: The requests; their sizes are ignored.
        capacity: The most entries at once.
        progress: Hears of it every some thousand requests.
    """
    if capacity < 1:
        raise ValueError(f"The capacity must be at least 1, not {capacity}.")
    total = len(trace)
    resident = bytearray(total)  # by the place of the entry's next use
    heap: list[int] = []  # minus that place
    waiting = useless = hits = 0  # residents with a next use, residents without, hits
    for now, following in enumerate(_next_uses(trace)):
        if resident[now]:
            hits += 1
            waiting -= 1
        elif waiting + useless >= capacity:
            if useless:
                useless -= 1
            else:
                resident[-heapq.heappop(heap)] = 0
                waiting -= 1
        if following < total:
            resident[following] = 1
            waiting += 1
            heapq.heappush(heap, -following)
        else:
            useless += 1
        if progress is not None and (now % _CHUNK == _CHUNK - 1 or now == total - 1):
            progress(now + 1, total)
    return hits / total


def _next_uses(trace: Trace) -> list[int]:
    """Return for each request where the same id is asked for next; past the end if never."""
    order = np.argsort(trace.ids, kind="stable")
    following = np.full(len(trace), len(trace), np.int64)
    same = trace.ids[order[1:]] == trace.ids[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    uses: list[int] = following.tolist()
    return uses
