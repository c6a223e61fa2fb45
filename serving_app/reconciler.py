"""Makes this process serve what the database says should be live."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from django.db import close_old_connections
from django.utils import timezone

from plugins import RecserveError
from serving_app.core.live_models import CANARY, PRODUCTION, SHADOW, LiveModels, Routes
from serving_app.core.live_version import LiveVersion
from serving_app.core.open_versions import Key, OpenVersions
from serving_app.core.version_record import VersionRecord
from serving_app.models import Activation, Alias, ModelVersion

logger = logging.getLogger(__name__)

HEARTBEAT = 15.0
"""Seconds between two signs of life of a process in its `Activation` rows."""
TELL = 2.0
"""Seconds between two times that a process tells its statistics."""
GONE = 60.0
"""Seconds without one after which a process's rows are taken away."""
GLANCE = 0.05
"""Seconds between two looks at whether another process of this host has changed something."""
RETRY = 30.0
"""Seconds after which a version that failed to load is tried again."""


def process_name() -> str:
    """Return host and process id: the process's name in `Activation` rows."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(slots=True)
class _Wanted:
    """What the database says of one model."""

    records: dict[str, VersionRecord] = field(default_factory=dict)
    """By alias; production comes first, since it is loaded first."""
    shares: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A version that could not be loaded here."""

    record: VersionRecord
    at: float
    problem: str


class Reconciler:
    """Loads, warms, swaps and drains versions until live models and database agree.

    `reconcile` may be called from any thread, one at a time; `start` runs it on a thread of its
    own, at once when woken, else every ``interval`` seconds.

    Args:
        live: The models of this process.
        open_version: Loads a version, probes it, and warms it; raises what is wrong with it.
        activated: Called with model name and version when a version has gone live.
        look_around: Called at each pass: what else may have changed elsewhere is read there.
        tell: Called every `TELL` seconds: what others may want to know is written there.
        sign_off: Called when the process ends.
        interval: Seconds between two looks at the database.
        news: Returns what changes when another process of this host has changed something; a look
            every `GLANCE` seconds.
        keep: Seconds that the version that was in production before stays in memory.
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
        news: Callable[[], Hashable] = lambda: None,
        keep: float = 0.0,
        grace: float = 10.0,
    ) -> None:
        self._live = live
        self._versions = OpenVersions(live, keep=keep)
        self._open_version = open_version
        self._activated = activated
        self._look_around = look_around
        self._tell = tell
        self._sign_off = sign_off
        self._interval = interval
        self._news = news
        self._grace = grace
        self._lock = threading.Lock()
        self._failed: dict[Key, _Failure] = {}
        self._load_seconds: dict[Key, float] = {}
        self._rows: dict[Key, tuple[Activation.State, str]] = {}
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
            # Whatever is in memory is routed to before anything is loaded, and the database is
            # read again after each load: a roll-back waits for one load at most.
            while True:
                wanted = _wanted()
                self._route(wanted)
                missing = self._missing(wanted)
                self._report(wanted, loading=missing)
                self._heartbeat()
                if missing is None or self._stopping:
                    break
                self._load(missing)
            self._versions.close_drained()
        self.ready.set()

    def _route(self, wanted: Mapping[str, _Wanted]) -> None:
        """Let what is in memory answer as it should; what is not there yet changes nothing."""
        before = self._live.routes()
        for name in before.keys() - wanted.keys():
            self._versions.route(name, None)
        for name, model in wanted.items():
            old = before.get(name, Routes())
            routes = self._routes_of(model, old)
            if routes != old:
                self._versions.route(name, routes)
                known = {id(version) for version in old.versions}
                for version in routes.versions:
                    if id(version) not in known:
                        logger.info("%s is live", version.record.label)
                        self._activated(name, version.record.version)
        with self._passed:
            self._passed.notify_all()

    def _routes_of(self, model: _Wanted, old: Routes) -> Routes:
        """Return the nearest to what is wanted of a model that is in memory."""
        aliases = {}
        for alias, record in model.records.items():
            version = self._versions.find(record)
            if version is None:  # not loaded yet, or it cannot be: the old one goes on
                version = old.aliases.get(alias)
                if (
                    version is not None
                    and alias == CANARY
                    and version.record.version != record.version
                ):
                    version = None  # a share of the users is not for another candidate
            if version is not None:
                aliases[alias] = version
        return Routes(aliases, model.shares.get(CANARY, 0), model.shares.get(SHADOW, 0))

    def _missing(self, wanted: Mapping[str, _Wanted]) -> VersionRecord | None:
        """Return a version that has to be loaded, unless it has just failed."""
        now = time.monotonic()
        for model in wanted.values():
            for record in model.records.values():
                if self._versions.find(record) is None:
                    failed = self._failed.get(_key(record))
                    if failed is None or failed.record != record or now - failed.at >= RETRY:
                        return record
        return None

    def _load(self, record: VersionRecord) -> None:
        started = time.monotonic()
        try:
            version = self._open_version(record)
        except Exception as error:
            logger.exception("%s cannot go live here", record.label)
            problem = str(error) if isinstance(error, RecserveError) else repr(error)
            self._failed[_key(record)] = _Failure(record, time.monotonic(), problem)
            return
        self._failed.pop(_key(record), None)
        self._load_seconds[_key(record)] = time.monotonic() - started
        logger.info("%s is loaded after %.1f s", record.label, time.monotonic() - started)
        self._versions.add(version)

    def _report(self, wanted: Mapping[str, _Wanted], loading: VersionRecord | None) -> None:
        """Write into `Activation` rows what has changed in this process."""
        states: dict[Key, tuple[Activation.State, str]] = dict.fromkeys(
            self._versions.kept(), (Activation.State.WARM, "")
        )
        for name, routes in self._live.routes().items():
            for version in routes.versions:
                states[name, version.record.version] = (Activation.State.LIVE, "")
        for model in wanted.values():
            for record in model.records.values():
                key = _key(record)
                failed = self._failed.get(key)
                if failed is not None and self._versions.find(record) is None:
                    states[key] = (Activation.State.FAILED, failed.problem)
        self._failed = {key: value for key, value in self._failed.items() if key in states}
        if loading is not None:
            states[_key(loading)] = (Activation.State.LOADING, "")
        mine = Activation.objects.filter(process=process_name())
        for name, number in self._rows.keys() - states.keys():
            mine.filter(model__name=name, version__number=number).delete()
            del self._rows[name, number]
        for (name, number), (state, problem) in states.items():
            if self._rows.get((name, number)) == (state, problem):
                continue
            row = ModelVersion.objects.filter(model__name=name, number=number).first()
            if row is None:
                continue  # deleted a moment ago
            load_seconds = self._load_seconds.get((name, number))
            Activation.objects.update_or_create(
                process=process_name(),
                version=row,
                defaults={
                    "model_id": row.model_id,
                    "state": state,
                    "problem": problem,
                    "load_seconds": None if state == Activation.State.LOADING else load_seconds,
                    "seen": timezone.now(),
                },
            )
            self._rows[name, number] = (state, problem)

    def _heartbeat(self) -> None:
        if not self._told or time.monotonic() - self._told >= TELL:
            self._told = time.monotonic()
            self._tell()
        if self._beat and time.monotonic() - self._beat < HEARTBEAT:
            return
        self._beat = time.monotonic()
        now = timezone.now()
        if Activation.objects.filter(process=process_name()).update(seen=now) != len(self._rows):
            # Another took them away, as this process had stood still; or left some, under its name.
            Activation.objects.filter(process=process_name()).delete()
            self._rows.clear()
        Activation.objects.filter(seen__lt=now - timedelta(seconds=GONE)).delete()

    def start(self) -> None:
        """Reconcile on a thread of its own, until `stop`."""
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look at the database now: something has changed."""
        self._wake.set()

    def follow(self, name: str, number: int, timeout: float, alias: str = PRODUCTION) -> bool:
        """Return whether an alias leads to a version here within ``timeout`` seconds.

        False at once if it fails to load, or if no thread runs that could load it.
        """
        deadline = time.monotonic() + timeout
        self.wake()
        with self._passed:
            while True:
                version = self._live.routes().get(name, Routes()).aliases.get(alias)
                if version is not None and version.record.version == number:
                    return True
                left = deadline - time.monotonic()
                if left <= 0 or self._thread is None or (name, number) in self._failed:
                    return False
                self._passed.wait(left)

    def stop(self) -> None:
        """End the thread, let requests under way finish, and free every model."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._versions.close(self._grace)

    def _pause(self, known: Hashable) -> None:
        """Wait until there is something to do, or the interval is over."""
        until = time.monotonic() + self._interval
        while (left := until - time.monotonic()) > 0 and self._news() == known:
            if self._wake.wait(min(left, GLANCE)):
                return

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            known = self._news()
            try:
                self.reconcile()
            except Exception:  # the database may be away; what is live goes on answering
                logger.exception("Reconciling failed; trying again in %g s", self._interval)
            finally:
                close_old_connections()
            self._pause(known)
        try:
            Activation.objects.filter(process=process_name()).delete()
            self._sign_off()
        except Exception:  # the rows of a process that is gone are taken away by others
            logger.exception("This process could not sign off")
        finally:
            close_old_connections()


def _key(record: VersionRecord) -> Key:
    return record.model_name, record.version


def _wanted() -> dict[str, _Wanted]:
    """Return what the database says should be live, by model name."""
    wanted: dict[str, _Wanted] = {}
    rows = Alias.objects.select_related("version__model")
    for alias in sorted(rows, key=lambda row: row.name != PRODUCTION):
        model = wanted.setdefault(alias.version.model.name, _Wanted())
        model.records[alias.name] = alias.version.record()
        model.shares[alias.name] = alias.share
    return wanted
