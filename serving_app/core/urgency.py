"""How urgent a computation is that several may wait for: as the most urgent of them says."""

from __future__ import annotations

import threading
from collections.abc import Callable

from plugins import Priority

__all__ = ["Urgency"]


class Urgency:
    """The best priority and the latest deadline of those who wait for one computation.

    Any thread calls it.

    Args:
        priority: Of who started it.
        deadline: Monotonic instant until which its result is of use to them.
    """

    def __init__(self, priority: Priority, deadline: float) -> None:
        self._lock = threading.Lock()
        self.priority = priority
        self.deadline = deadline
        self._tell: Callable[[Priority, float], None] | None = None

    def join(self, priority: Priority, deadline: float) -> None:
        """Wait for it, too."""
        with self._lock:
            if priority >= self.priority and deadline <= self.deadline:
                return
            self.priority = min(self.priority, priority)
            self.deadline = max(self.deadline, deadline)
            if self._tell is not None:
                self._tell(self.priority, self.deadline)

    def queued(
        self, priority: Priority, deadline: float, tell: Callable[[Priority, float], None]
    ) -> None:
        """Say that the computation is queued, with what, and how to change that."""
        with self._lock:
            self._tell = tell
            if priority != self.priority or deadline != self.deadline:  # someone joined meanwhile
                tell(self.priority, self.deadline)
