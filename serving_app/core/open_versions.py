"""The versions that this process has in memory: those that answer, and those kept for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from serving_app.core.live_models import PRODUCTION, LiveModels, Routes
from serving_app.core.live_version import LiveVersion
from serving_app.core.version_record import VersionRecord

__all__ = ["Key", "OpenVersions"]

logger = logging.getLogger(__name__)

Key: TypeAlias = tuple[str, int]
"""Model name and version number."""


class OpenVersions:
    """Closes a version once nothing leads to it and nobody holds it. One thread uses it.

    A version that leaves production is kept first, the latest of each model alone, so that a
    roll-back finds it warm.

    Args:
        live: What leads to the versions.
        keep: Seconds that a version is kept; 0: not at all.
        clock: Monotonic seconds.
    """

    def __init__(
        self, live: LiveModels, *, keep: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._live = live
        self._keep = keep
        self._clock = clock
        self._open: dict[Key, LiveVersion] = {}
        self._kept: dict[Key, tuple[float, threading.Event]] = {}
        self._draining: list[tuple[threading.Event, LiveVersion]] = []

    def add(self, version: LiveVersion) -> None:
        """Take over a version that has been loaded, in place of an open one of its number.

        It is closed at the next `close_drained`, unless it is routed to before.
        """
        key = _key(version)
        if key in self._kept:
            self._forget(key)
        old = self._open.pop(key, None)
        if old is not None and id(old) not in self._routed():
            _close(old)
        self._open[key] = version  # an old one that still answers is retired by `route`

    def find(self, record: VersionRecord) -> LiveVersion | None:
        """Return the open version of exactly this record; a model's new settings are another."""
        version = self._open.get((record.model_name, record.version))
        return version if version is not None and version.record == record else None

    def kept(self) -> list[Key]:
        """Return the versions that answer nothing, and are kept for a roll-back."""
        return list(self._kept)

    def route(self, model_name: str, routes: Routes | None) -> None:
        """Change what answers for a model; None takes it out, and keeps nothing of it."""
        before = self._live.routes().get(model_name, Routes())
        left = before.aliases.get(PRODUCTION)
        for version in () if routes is None else routes.versions:
            self._kept.pop(_key(version), None)  # it answers again
        for drained, version in self._live.route(model_name, routes):
            key = _key(version)
            replaced = self._open.get(key) is not version
            if version is left and routes is not None and self._keep and not replaced:
                for other in [other for other in self._kept if other[0] == model_name]:
                    self._forget(other)
                self._kept[key] = (self._clock() + self._keep, drained)
                continue
            if not replaced:
                del self._open[key]
            self._draining.append((drained, version))
        if routes is None:
            for key in [key for key in self._kept if key[0] == model_name]:
                self._forget(key)

    def close_drained(self) -> None:
        """Close what nobody holds any more, and no longer keep what has been kept long enough."""
        now = self._clock()
        for key in [key for key, (until, _) in self._kept.items() if until <= now]:
            self._forget(key)
        routed = self._routed()
        for key, version in list(self._open.items()):
            if id(version) not in routed and key not in self._kept:
                del self._open[key]  # loaded, and no longer wanted
                _close(version)
        waiting = self._draining
        self._draining = [(drained, old) for drained, old in waiting if not drained.is_set()]
        for drained, old in waiting:
            if drained.is_set():
                _close(old)

    def close(self, grace: float) -> None:
        """Take every model out, and close every version, after ``grace`` seconds at most."""
        for name in self._live.routes():
            self.route(name, None)
        deadline = self._clock() + grace
        for drained, old in self._draining:
            drained.wait(max(0.0, deadline - self._clock()))
            _close(old)
        self._draining = []
        for version in self._open.values():
            _close(version)
        self._open.clear()

    def _routed(self) -> set[int]:
        routes = self._live.routes().values()
        return {id(version) for each in routes for version in each.versions}

    def _forget(self, key: Key) -> None:
        """Keep a version no longer."""
        _, drained = self._kept.pop(key)
        self._draining.append((drained, self._open.pop(key)))


def _key(version: LiveVersion) -> Key:
    return version.record.model_name, version.record.version


def _close(version: LiveVersion) -> None:
    try:
        version.close()
    except Exception:  # a plugin's close may raise anything; nothing leads here any more
        logger.exception("%s did not close cleanly", version.record.label)
