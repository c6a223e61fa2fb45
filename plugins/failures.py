"""What plugins raised while the server ran, and which of them are switched off for it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

__all__ = ["Failures", "PartFailures", "summed"]

logger = logging.getLogger(__name__)

_LOGGED = 3
"""Failures of a part that are logged with their traceback; then each time there are twice as many:
what fails at every request must not fill the disk."""


@dataclass(frozen=True, slots=True)
class PartFailures:
    """What one part of a plugin did wrong, in one process or in several."""

    failures: int
    """How often it raised, or returned what it must not, since the process started."""
    error: str
    """The last of it, in one line."""
    at: float
    """When that was, in wall-clock seconds."""
    off: int
    """In how many processes it is switched off."""


class Failures:
    """Counts what parts of plugins raise, and switches off what raises again and again.

    A part is one thing that a plugin provides: ``eviction policy random``, ``fallback``. Whoever
    calls it catches what it raises, tells `note`, and does without it while `is_off`. Any thread
    calls this, and nothing here is on the way of what works.

    Args:
        limit: So many failures of a part within the window switch it off; 0: nothing does.
        window: Seconds.
        clock: Wall-clock seconds.
    """

    def __init__(
        self, *, limit: int = 5, window: float = 60.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._lock = threading.Lock()
        self._parts: dict[tuple[str, str], PartFailures] = {}
        self._recent: dict[tuple[str, str], deque[float]] = {}
        self._off: frozenset[tuple[str, str]] = frozenset()  # replaced whole: read without the lock

    def note(
        self, plugin: str, part: str, error: BaseException | str, *, switches_off: bool = True
    ) -> bool:
        """Count a failure, and return whether the part is off now.

        Args:
            plugin: The plugin's name.
            part: What of it failed.
            error: What it raised, or what is wrong with what it returned.
            switches_off: Whether the part can be done without.
        """
        where, now = (plugin, part), self._clock()
        told = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        with self._lock:
            before = self._parts.get(where)
            n = 1 if before is None else before.failures + 1
            off = where in self._off
            if switches_off and self._limit and not off:
                recent = self._recent.setdefault(where, deque(maxlen=self._limit))
                recent.append(now)
                off = len(recent) == self._limit and now - recent[0] <= self._window
                if off:
                    self._off |= {where}
                    del self._recent[where]
            # str() of an error may hold whole requests.
            line = " ".join(told.split())[:300]
            self._parts[where] = PartFailures(n, line, now, int(off))
            switched = off and (before is None or not before.off)
        if n <= _LOGGED or n & (n - 1) == 0:
            trace = error if isinstance(error, BaseException) else None
            logger.error("Plugin %s: %s failed (%d): %s", plugin, part, n, line, exc_info=trace)
        if switched:
            logger.error(
                "Plugin %s: %s is switched off in this process, after %d failures within %g s",
                *(plugin, part, self._limit, self._window),
            )
        return off

    def is_off(self, plugin: str, part: str) -> bool:
        """Return whether a part is switched off. It takes no lock."""
        return (plugin, part) in self._off

    def switch_on(self, plugin: str) -> bool:
        """Let all parts of a plugin work again; return whether one was off."""
        with self._lock:
            mine = {where for where in self._off if where[0] == plugin}
            self._off -= mine
            for where in mine:
                self._parts[where] = replace(self._parts[where], off=0)
        if mine:
            logger.warning("Plugin %s is switched on again", plugin)
        return bool(mine)

    def by_plugin(self) -> dict[str, dict[str, PartFailures]]:
        """Return what was counted, by plugin and part."""
        with self._lock:
            parts = sorted(self._parts.items())
        counted: dict[str, dict[str, PartFailures]] = {}
        for (plugin, part), failures in parts:
            counted.setdefault(plugin, {})[part] = failures
        return counted


def summed(
    processes: Iterable[Mapping[str, Mapping[str, PartFailures]]],
) -> dict[str, dict[str, PartFailures]]:
    """Return what several processes counted as one's; the error is the last of them all."""
    total: dict[str, dict[str, PartFailures]] = {}
    for process in processes:
        for plugin, parts in process.items():
            mine = total.setdefault(plugin, {})
            for part, one in parts.items():
                known = mine.get(part)
                mine[part] = one if known is None else _both(known, one)
    return total


def _both(one: PartFailures, two: PartFailures) -> PartFailures:
    last = max(one, two, key=lambda each: (each.at, each.error))
    return replace(last, failures=one.failures + two.failures, off=one.off + two.off)
