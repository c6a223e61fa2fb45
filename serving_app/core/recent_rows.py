"""The rows that a model was asked lately: what a new version is warmed with."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError

from plugins import BadRequest, InferenceError, Priority, QueueFull, RecserveError
from serving_app.core.features import Layout, Row, reordered
from serving_app.core.live_version import LiveVersion

__all__ = ["RecentRows", "warm"]

MOST_FAILING = 0.1
"""The part of the recorded rows that may fail before a version is refused."""
LARGEST_BATCH = 16
"""The most rows that are replayed at once: a new version must not take the processor from those
that answer."""


class RecentRows:
    """The last distinct rows of each model. They hold features, and no user. Any thread records.

    Args:
        capacity: Rows kept of each model.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: dict[str, OrderedDict[object, tuple[Layout, Row]]] = {}
        self._lock = threading.Lock()

    def record(self, model_name: str, layout: Layout, row: Row) -> None:
        """Keep a row that the model's version has just computed."""
        digest = tuple([(array.dtype.str, array.tobytes()) for array in row])
        with self._lock:
            rows = self._rows.setdefault(model_name, OrderedDict())
            if digest in rows:
                rows.move_to_end(digest)
            else:  # copied, as it may be part of a source's file
                rows[digest] = (layout, tuple([array.copy() for array in row]))
            if len(rows) > self._capacity:
                rows.popitem(last=False)

    def of(self, model_name: str, layout: Layout) -> list[Row]:
        """Return a model's rows, the latest first, as a version of this layout takes them.

        Rows of a version with other features are left out: nothing says what the new ones would be.
        """
        with self._lock:
            kept = list(self._rows.get(model_name, {}).values())
        found = (reordered(row, theirs, layout) for theirs, row in reversed(kept))
        return [row for row in found if row is not None]


def warm(
    version: LiveVersion,
    rows: Sequence[Row],
    *,
    depth: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Replay recorded rows through a version that answers nobody yet; return how many.

    Batches grow from one row to `LARGEST_BATCH`, so that what a framework prepares for each size is
    prepared. It ends after ``seconds`` at the latest, whatever is left.

    Raises:
        InferenceError: More than `MOST_FAILING` of the replayed rows failed.
    """
    deadline = clock() + seconds
    replayed = failed = 0
    problem: RecserveError | None = None
    size = 1
    while replayed < len(rows) and clock() < deadline:
        batch = rows[replayed : replayed + size]
        futures = []
        for row in batch:
            try:
                futures.append(version.submit(row, depth, priority=Priority.WARM_UP))
            except QueueFull:
                break  # a short queue; the rest comes with the next batch
        for future in futures:
            try:
                future.result(max(0.0, deadline - clock()))
            except FutureTimeoutError:
                future.cancel()
                return _judged(version, replayed, failed, problem)
            except BadRequest:
                pass  # the row's fault, whoever computes it
            except RecserveError as error:
                failed, problem = failed + 1, error
            replayed += 1
        size = min(2 * size, LARGEST_BATCH)
    return _judged(version, replayed, failed, problem)


def _judged(version: LiveVersion, replayed: int, failed: int, problem: RecserveError | None) -> int:
    if failed > MOST_FAILING * replayed:
        raise InferenceError(
            f"{version.record.label} failed on {failed} of {replayed} recent requests that were "
            f"replayed before it went live; the last: {problem}"
        )
    return replayed
