"""Strict coherence: at each request, the database itself says what the latest epoch is."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from cache_app.core.merged_reads import MergedReads
from plugins.errors import LevelUnavailable

__all__ = ["EpochAuthority"]


class EpochAuthority:
    """Asks for the latest epoch, once for all threads that queued meanwhile. Any thread calls it.

    Whoever asks gets an answer to a question that was put after it had begun to ask: an
    invalidation that had returned by then is in it.

    Args:
        latest: Returns the latest epoch, or raises `LevelUnavailable`.
    """

    def __init__(self, latest: Callable[[], int]) -> None:
        self._reads = MergedReads(lambda keys: [latest()] * len(keys))

    def hint(self) -> Hashable:
        """Return the latest epoch; while it cannot be known, something that nothing equals."""
        try:
            epoch: int = self._reads.get(b"")
        except LevelUnavailable:
            return object()
        return epoch
