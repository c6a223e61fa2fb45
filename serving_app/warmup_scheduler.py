"""Runs warm-ups when they are due: a thread in each serving process, or a command."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from django.db import DatabaseError, close_old_connections
from django.utils import timezone

from serving_app import warmup_runs
from serving_app.warmup_conf import warmup_settings
from serving_app.warmup_runner import Runner
from serving_app.warmup_runs import Claim

__all__ = ["Scheduler"]

logger = logging.getLogger(__name__)

_PRUNE_SECONDS = 300.0


class Scheduler:
    """Looks for what is due, and runs it, one run at a time.

    Every process may have one: the database says who gets which run.

    Args:
        runner: Runs them.
        ready: Whether this process has loaded what it serves.
    """

    def __init__(self, runner: Runner, *, ready: Callable[[], bool] = lambda: True) -> None:
        self.runner = runner
        self._ready = ready
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pruned = float("-inf")

    def tick(self) -> bool:
        """Ask for the runs that are due, and run one that waits; return whether there was one.

        Raises:
            DatabaseError: The database does not answer.
        """
        now = timezone.now()
        for schedule in warmup_runs.due_schedules(now):
            warmup_runs.start_due(schedule, now)
        if time.monotonic() - self._pruned >= _PRUNE_SECONDS:
            self._pruned = time.monotonic()
            warmup_runs.prune(now)
        claim = warmup_runs.claim(timezone.now())
        if claim is None:
            return False
        self.run(claim)
        return True

    def run(self, claim: Claim) -> None:
        """Run what this process has claimed, on this thread, until its end or `stop`."""
        self.runner.run(claim, self._stop)

    def start(self) -> None:
        """Look for what is due on a thread of its own, until `stop`."""
        self._thread = threading.Thread(target=self._run, name="warm-up scheduler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a run under way is left to another process, or to the next start."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def run_forever(self) -> None:
        """Look for what is due on this thread, until `stop`."""
        self._run()

    def _run(self) -> None:
        pause = warmup_settings().poll_seconds
        while not self._stop.wait(pause):
            try:
                while self._ready() and not self._stop.is_set() and self.tick():
                    pass
            except DatabaseError as error:  # it may be away; so is what is due
                logger.warning("Warm-ups cannot be looked for: %s", error)
            except Exception:
                logger.exception("The warm-up scheduler failed; it goes on")
            finally:
                close_old_connections()
        close_old_connections()
