"""Evaluates rules and sends notices, each on a thread of its own, in one process of all."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from django.db import DatabaseError, close_old_connections

from serving_app.alert_channels import deliver
from serving_app.alert_conf import alert_settings
from serving_app.alert_models import AlertLease
from serving_app.alerts import evaluate, take_lease

__all__ = ["DELIVER", "EVALUATE", "AlertWork"]

logger = logging.getLogger(__name__)

EVALUATE, DELIVER = "evaluate", "deliver"
"""Names of the leases."""
_DELIVERING = 120.0
"""Seconds of the lease of whoever sends: channels that are away may take some."""


class AlertWork:
    """What one process does for alerts.

    Args:
        holder: The process's name.
        clock: Unix seconds.
    """

    def __init__(self, holder: str, *, clock: Callable[[], float] = time.time) -> None:
        self._holder = holder
        self._clock = clock
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin, if settings want it."""
        settings = alert_settings()
        if not settings.evaluate:
            return
        for name, work in ((EVALUATE, self.evaluate), (DELIVER, self.deliver)):
            thread = threading.Thread(
                target=self._run,
                args=(work, settings.tick_seconds),
                name=f"alerts-{name}",
                daemon=True,
            )
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End, and leave the work to others; a notice under way may take some seconds."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(10.0)
        if self._threads:
            self._threads.clear()
            try:
                now = datetime.fromtimestamp(self._clock(), UTC)
                AlertLease.objects.filter(holder=self._holder).update(holder="", until=now)
            except DatabaseError:
                logger.warning("The leases of alerts were not given back; they run out.")

    def evaluate(self) -> None:
        """Look at every rule, if it is this process's turn."""
        now = self._clock()
        if take_lease(EVALUATE, self._holder, now, alert_settings().tick_seconds + 5.0):
            evaluate(now)

    def deliver(self) -> None:
        """Send what is due, if it is this process's turn."""
        now = self._clock()
        if take_lease(DELIVER, self._holder, now, _DELIVERING):
            deliver(now, stopping=self._stopping.is_set)

    def _run(self, work: Callable[[], None], seconds: float) -> None:
        while not self._stopping.wait(seconds):
            try:
                work()
            except Exception:  # the database may be away; the next time it may not
                logger.exception("Alerts failed; trying again in %g s", seconds)
            finally:
                close_old_connections()
