"""Which stale values could not be renewed, so that answers say so."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from plugins import Unavailable

__all__ = ["FailedRenewals"]

_MOST = 1000
"""Keys remembered; of those beyond, a stale answer does not say that its renewal failed."""


class FailedRenewals:
    """The stale values whose last renewal failed, by key. Any thread calls it; each step is O(1).

    A renewal goes on while the stale value answers, and may fail after that: whoever asks next is
    told. A value is known by the instant at which it was computed, so that what another process
    renewed meanwhile is another value.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed: dict[str, float] = {}

    def includes(self, key: str, created: float) -> bool:
        """Return whether the last renewal of the value failed."""
        return self._failed.get(key) == created

    def note(self, key: str, created: float, renewal: Future[Any]) -> None:
        """Take note of how a renewal of the value ended, for want of a model or not."""
        failed = isinstance(renewal.exception(), Unavailable)
        with self._lock:
            self._failed.pop(key, None)
            if failed:
                self._failed[key] = created
                if len(self._failed) > _MOST:
                    del self._failed[next(iter(self._failed))]
