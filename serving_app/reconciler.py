"""Makes this process serve what the database says should be live."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from django.db import close_old_connections
from django.utils import timezone

from plugins import RecserveError
from serving_app.core.live_models import LiveModels
from serving_app.core.live_version import LiveVersion
from serving_app.core.version_record import VersionRecord
from serving_app.models import Activation, ServedModel

logger = logging.getLogger(__name__)

HEARTBEAT = 15.0
"""Seconds between two signs of life of a process in its `Activation` rows."""
TELL = 2.0
"""Seconds between two times that a process tells its statistics."""
GONE = 60.0
"""Seconds without one after which a process's rows are taken away."""
RETRY = 30.0
"""Seconds after which a version that failed to load is tried again."""


def process_name() -> str:
    """Return host and process id: the process's name in `Activation` rows."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Reconciler:
    """Loads, swaps and drains versions until live models and database agree.

    `reconcile` may be called from any thread, one at a time; `start` runs it on a thread of its
    own, at once when woken, else every ``interval`` seconds.

    Args:
        live: The models of this process.
        open_version: Loads a version and probes it.
        activated: Called with model name and version when a version has gone live.
        look_around: Called at each pass: what else may have changed elsewhere is read there.
        tell: Called every `TELL` seconds: what others may want to know is written there.
        sign_off: Called when the process ends.
        interval: Seconds between two looks at the database.
        grace: Seconds that an old version may take to drain when the process stops.
    """

    def __init__(
        self,
        live: LiveModels,
        *,
        open_version: Callable[[VersionRecord], LiveVersion],
        activated: Callable[[str, int], None],
        look_around: Callable[[], None],
        tell: Callable[[], None],
        sign_off: Callable[[], None],
        interval: float,
        grace: float = 10.0,
    ) -> None:
        self._live = live
        self._open_version = open_version
        self._activated = activated
        self._look_around = look_around
        self._tell = tell
        self._sign_off = sign_off
        self._interval = interval
        self._grace = grace
        self._lock = threading.Lock()
        self._failed: dict[str, tuple[VersionRecord, float]] = {}
        self._draining: list[tuple[threading.Event, LiveVersion]] = []
        self._wake = threading.Event()
        self._passed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._beat = self._told = 0.0
        self.ready = threading.Event()
        """Set once the first pass is through: everything that can be live, is."""

    def reconcile(self) -> None:
        """Bring the live models in line with the database, once."""
        with self._lock:
            self._look_around()
            wanted = {
                model.name: model
                for model in ServedModel.objects.exclude(live_version=None).select_related(
                    "live_version__model"
                )
            }
            for name in self._live.live().keys() - wanted.keys():
                self._retire(name, None)
            for model in wanted.values():
                self._follow(model)
            self._heartbeat()
            self._close_drained()
        self.ready.set()
        with self._passed:
            self._passed.notify_all()

    def _follow(self, model: ServedModel) -> None:
        """Make the model's wanted version live, unless it is, or has failed already."""
        assert model.live_version is not None, "only models with a live version are wanted"
        record = model.live_version.record()
        current = self._live.live().get(model.name)
        if current is not None and current.record == record:
            if self._failed.pop(model.name, None) is not None:  # a failed version was taken back
                self._report(model, Activation.State.LIVE)
            return
        failed, at = self._failed.get(model.name, (None, 0.0))
        started = time.monotonic()
        if failed == record and started - at < RETRY:
            return
        self._report(model, Activation.State.LOADING)
        try:
            version = self._open_version(record)
        except Exception as error:
            logger.exception("%s cannot go live here", record.label)
            self._failed[model.name] = (record, time.monotonic())
            problem = str(error) if isinstance(error, RecserveError) else repr(error)
            self._report(model, Activation.State.FAILED, problem=problem)
            return
        self._failed.pop(model.name, None)
        self._retire(model.name, version)
        seconds = time.monotonic() - started
        logger.info("%s is live after %.1f s", record.label, seconds)
        self._report(model, Activation.State.LIVE, load_seconds=seconds)
        self._activated(model.name, record.version)

    def _retire(self, name: str, successor: LiveVersion | None) -> None:
        old = self._live.live().get(name)
        drained = self._live.swap(name, successor)
        if old is not None and drained is not None:
            self._draining.append((drained, old))

    def _close_drained(self) -> None:
        waiting = self._draining
        self._draining = [(drained, old) for drained, old in waiting if not drained.is_set()]
        for drained, old in waiting:
            if drained.is_set():
                _close(old)

    def _report(
        self,
        model: ServedModel,
        state: Activation.State,
        *,
        problem: str = "",
        load_seconds: float | None = None,
    ) -> None:
        assert model.live_version is not None, "only models with a live version are wanted"
        Activation.objects.update_or_create(
            process=process_name(),
            model=model,
            defaults={
                "version": model.live_version,
                "state": state,
                "problem": problem,
                "load_seconds": load_seconds,
                "seen": timezone.now(),
            },
        )

    def _heartbeat(self) -> None:
        if not self._told or time.monotonic() - self._told >= TELL:
            self._told = time.monotonic()
            self._tell()
        if self._beat and time.monotonic() - self._beat < HEARTBEAT:
            return
        self._beat = time.monotonic()
        now = timezone.now()
        Activation.objects.filter(process=process_name()).update(seen=now)
        Activation.objects.filter(seen__lt=now - timedelta(seconds=GONE)).delete()

    def start(self) -> None:
        """Reconcile on a thread of its own, until `stop`."""
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look at the database now: something has changed."""
        self._wake.set()

    def follow(self, name: str, number: int, timeout: float) -> bool:
        """Return whether a version goes live here within ``timeout`` seconds.

        False at once if it fails to load, or if no thread runs that could load it.
        """
        deadline = time.monotonic() + timeout
        self.wake()
        with self._passed:
            while True:
                version = self._live.live().get(name)
                if version is not None and version.record.version == number:
                    return True
                failed, _ = self._failed.get(name, (None, 0.0))
                left = deadline - time.monotonic()
                if left <= 0 or self._thread is None or (failed and failed.version == number):
                    return False
                self._passed.wait(left)

    def stop(self) -> None:
        """End the thread, let requests under way finish, and free every model."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for name in self._live.live():
            self._retire(name, None)
        deadline = time.monotonic() + self._grace
        for drained, old in self._draining:
            drained.wait(max(0.0, deadline - time.monotonic()))
            _close(old)
        self._draining = []

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self.reconcile()
            except Exception:  # the database may be away; what is live goes on answering
                logger.exception("Reconciling failed; trying again in %g s", self._interval)
            finally:
                close_old_connections()
            self._wake.wait(self._interval)
        try:
            Activation.objects.filter(process=process_name()).delete()
            self._sign_off()
        except Exception:  # the rows of a process that is gone are taken away by others
            logger.exception("This process could not sign off")
        finally:
            close_old_connections()


def _close(version: LiveVersion) -> None:
    try:
        version.close()
    except Exception:  # a plugin's close may raise anything; the swap is done already
        logger.exception("%s did not close cleanly", version.record.label)
