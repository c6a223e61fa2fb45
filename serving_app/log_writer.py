"""Lines of a log, written on a thread of their own, so that nobody who is served waits for it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Lines", "LogWriter", "write_lines"]

Item = TypeVar("Item")

logger = logging.getLogger(__name__)

_AT_ONCE = 64
"""Lines that are made in one go: for so long the thread holds up the others."""


class LogWriter(Generic[Item]):
    """Takes items from any thread, and writes them in order on its own.

    Taking one costs an append. When more wait than it holds, as whatever takes the log is slow or
    stuck, the new one is dropped and counted: it is a log that must not hold up what it tells of.

    Args:
        write: Writes some items; what it raises costs these items.
        capacity: How many may wait.
        pause: Seconds in which others may join the first one that comes.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], None],
        *,
        capacity: int = 10_000,
        pause: float = 0.02,
    ) -> None:
        self._write = write
        self._capacity = capacity
        self._pause = pause
        self._items: deque[Item] = deque()
        self._woken = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._writing = threading.Lock()
        self._dropping = threading.Lock()
        self._dropped = self._told = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many items were dropped."""
        return self._dropped

    def put(self, item: Item) -> None:
        """Let an item be written; it never waits."""
        if len(self._items) >= self._capacity:
            with self._dropping:
                self._dropped += 1
            return
        self._items.append(item)
        if not self._woken:
            self._woken = True
            self._wake.set()
        if self._closing.is_set():  # its thread may have looked for the last time
            self.flush()

    def flush(self) -> None:
        """Write what waits, on this thread."""
        with self._writing:
            while self._items:
                count = min(_AT_ONCE, len(self._items))
                self._written([self._items.popleft() for _ in range(count)])

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, and what comes from now on at once.

        Args:
            timeout: Seconds after which a log that is stuck is given up.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(self._pause)
            self._wake.clear()
            self._woken = False  # who puts from now on wakes it again
            self.flush()

    def _written(self, items: Sequence[Item]) -> None:
        try:
            self._write(items)
        except Exception:
            logger.exception("%d lines of the log could not be written", len(items))
        missing = self._dropped - self._told
        if missing:
            self._told += missing
            logger.warning(
                "%d lines of the log were dropped: whatever takes it is too slow", missing
            )


class Lines(logging.StreamHandler):  # type: ignore[type-arg]  # not generic at run time
    """Writes lines to standard error, several in one go where they come so."""

    def handle_many(self, records: Sequence[logging.LogRecord]) -> None:
        """Write records as `handle` would write each."""
        text = "".join(
            [self.format(each) + self.terminator for each in records if self.filter(each)]
        )
        with self.lock:  # type: ignore[union-attr]  # a handler has one
            try:
                self.stream.write(text)
                self.flush()
            except Exception:  # noqa: BLE001  (as any handler's, it goes where logging says)
                self.handleError(records[-1])


def write_lines(to: logging.Logger, records: Sequence[logging.LogRecord]) -> None:
    """Do what ``to.handle`` does for each record, for many in one go where a handler can."""
    records = [each for each in records if to.filter(each)]
    if not records:
        return
    at: logging.Logger | None = to
    while at is not None:
        for handler in at.handlers:
            some = [each for each in records if each.levelno >= handler.level]
            if some and isinstance(handler, Lines):
                handler.handle_many(some)
            else:
                for each in some:
                    handler.handle(each)
        at = at.parent if at.propagate else None
