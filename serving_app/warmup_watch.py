"""Keeps a warm-up run alive, and hears that it shall stop."""

from __future__ import annotations

import threading
import time

from django.db import DatabaseError, connections

from serving_app.warmup_conf import warmup_settings
from serving_app.warmup_models import WarmupRun
from serving_app.warmup_runs import Claim

__all__ = ["Lost", "Watch"]

_WATCH = 0.25
"""Seconds between two looks at whether to stop."""


class Lost(Exception):
    """Another process runs it now."""


class Watch:
    """Keeps a run alive, and hears that it shall stop, on a thread of its own."""

    def __init__(self, claim: Claim, shutdown: threading.Event) -> None:
        self._claim = claim
        self._shutdown = shutdown
        self._dead = warmup_settings().dead_seconds
        self._closed = threading.Event()
        self.stop = threading.Event()
        """Set when the run shall stop, for whatever reason."""
        self._lost = False
        self._told = False
        self._thread = threading.Thread(target=self._follow, name="warm-up watch", daemon=True)
        self._thread.start()

    def stopped(self) -> bool:
        """Return whether the run shall stop, for whatever reason."""
        return self.stop.is_set() or self._shutdown.is_set()

    def pause(self, seconds: float) -> bool:
        """Wait so many seconds, and return whether to go on."""
        return not (self.stopped() or self.stop.wait(seconds))

    def ending(self) -> tuple[WarmupRun.State | None, str]:
        """Return how a run that was interrupted ends.

        Raises:
            Lost: Another process runs it now.
        """
        if self._lost:
            raise Lost
        return (WarmupRun.State.STOPPED, "Stopped.") if self._told else (None, "")

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _follow(self) -> None:
        known = beat = time.monotonic()
        try:
            while not self._closed.is_set():
                now = time.monotonic()
                try:
                    going_on = self._claim.going_on()
                    if going_on and now - beat > self._dead / 6:
                        beat = now
                        going_on = self._claim.alive() or None
                    known = now
                except DatabaseError:
                    going_on = None if now - known > self._dead / 2 else True
                if going_on is None:
                    self._lost = True
                elif not going_on:
                    self._told = True
                if not going_on or self._shutdown.is_set():
                    self.stop.set()
                    return
                self._closed.wait(_WATCH)
        finally:
            connections.close_all()
