"""Adds what this process counts to the sums by minute, hour and day, of all processes.

The reconciler's thread looks every two seconds at what was counted anyway, and adds the gain to the
database every few seconds; no request takes part in it. A gain goes to its minute, its hour and its
day in one transaction, so that an hour always is the sum of its minutes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import (
    DatabaseError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    router,
    transaction,
)
from django.db.models import Exists, OuterRef

from serving_app.core.rollups import (
    STEPS,
    Counts,
    Series,
    Step,
    gained,
    of_engines,
    of_process,
)
from serving_app.core.statistics import Statistics
from serving_app.rollup_conf import RollupSettings
from serving_app.rollup_models import EngineMark, Rollup, RollupSeries

__all__ = ["RollupWriter", "add", "prune"]

logger = logging.getLogger(__name__)

_STATEMENT = 200
"""Rows written by one statement."""
_PRUNE_SECONDS = 300.0
_KEPT_MINUTES = 120
"""Minutes that wait for a database that is away; older ones become one."""
_MARKS_KEPT = timedelta(days=2)

ByTime = Mapping[int, Mapping[Series, float]]


class RollupWriter:
    """Rolls up what one process counts. One thread uses it, and at its end another may.

    Args:
        settings: The settings of rollups.
        clock: Unix seconds.
    """

    def __init__(self, settings: RollupSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._since = self._written = self._pruned = clock()
        self._told_minute = -1
        self._before: Counts = {}
        self._pending: defaultdict[int, Counts] = defaultdict(dict)
        self._engines: dict[str, Counts] = {}
        self._ids: dict[Series, int] = {}

    def tell(
        self,
        statistics: Statistics,
        levels: Mapping[str, Mapping[str, Any]],
        http: Mapping[tuple[str, str, str], int],
        *,
        live: Mapping[str, bool],
        at_once: bool = False,
    ) -> None:
        """Take what was counted by now; now and then, or ``at_once``, write it.

        Args:
            statistics: Of serving, in this process.
            levels: Counts of the cache's levels, by name.
            http: HTTP requests by method, route and status.
            live: Of each model that should be, whether its production is live in this process.
            at_once: Whether to write now, as at the end of the process.
        """
        if not self._settings.record:
            return
        with self._lock:
            now = self._clock()
            self._take(now, statistics, levels, http, live)
            due = now - self._written >= self._settings.flush_seconds
            if due or at_once or _minute(now) != _minute(self._written):
                self._write(now)

    def _take(
        self,
        now: float,
        statistics: Statistics,
        levels: Mapping[str, Mapping[str, Any]],
        http: Mapping[tuple[str, str, str], int],
        live: Mapping[str, bool],
    ) -> None:
        passed = max(0.0, now - self._since)
        # What was counted since the last look belongs to the minute in which that was; after a
        # standstill nobody knows, and the minutes in between stay empty.
        minute = _minute(self._since if passed <= 60 else now)
        passed = min(passed, 60.0)
        self._since = now
        counted = of_process(statistics, levels, http)
        gain = gained(self._before, counted)
        self._before = counted
        if minute != self._told_minute:
            self._told_minute = minute
            gain[Series("told")] = 1
        gain |= _states(statistics, levels, live, passed)
        self._engines |= of_engines(statistics)
        _add(self._pending[minute], gain)
        while len(self._pending) > _KEPT_MINUTES:
            oldest, second = sorted(self._pending)[:2]
            _add(self._pending[second], self._pending.pop(oldest))

    def _write(self, now: float) -> None:
        self._written = now
        first = min(self._pending)
        try:
            written = add(
                self._pending, self._engines, at=first, ids=self._ids, most=self._settings.series
            )
            if not written:
                logger.warning("More than SERIES series: what is new is not rolled up")
        except (OperationalError, InterfaceError) as error:
            logger.warning("Rollups could not be written, and are kept for later: %s", error)
            return
        except IntegrityError as error:  # a series was deleted: look them up anew, next time
            logger.warning("Rollups could not be written, and are kept for later: %s", error)
            self._ids.clear()
            return
        except DatabaseError as error:  # it will not take them later, either
            logger.warning("Rollups could not be written, and are lost: %s", error)
            self._told_minute = -1
        self._pending.clear()
        self._engines.clear()
        if now - self._pruned >= _PRUNE_SECONDS:
            self._pruned = now
            prune(self._settings, now)


def _states(
    statistics: Statistics,
    levels: Mapping[str, Mapping[str, Any]],
    live: Mapping[str, bool],
    seconds: float,
) -> Counts:
    """Return for how many seconds what was so."""
    counts: defaultdict[Series, float] = defaultdict(float)
    for level, given in levels.items():
        counts[Series("level_told_seconds", level=level)] = seconds
        up = not given.get("away") and given.get("state", "closed") == "closed"
        if up:
            counts[Series("level_up_seconds", level=level)] = seconds
    for model, is_live in live.items():
        counts[Series("wanted_seconds", model)] = seconds
        if is_live:
            counts[Series("live_seconds", model)] = seconds
    for model, numbers in statistics.versions.items():
        for version in numbers.values():
            for stats in version.engines.values():
                counts[Series("engine_seconds", model)] += seconds
                counts[Series("queued_seconds", model)] += seconds * stats.queued
    return {series: n for series, n in counts.items() if n}


def _minute(at: float) -> int:
    return int(at // 60) * 60


def _add(to: Counts, gain: Mapping[Series, float]) -> None:
    for series, n in gain.items():
        to[series] = to.get(series, 0.0) + n


def add(
    gains: ByTime,
    engines: Mapping[str, Counts] | None = None,
    *,
    at: int = 0,
    ids: dict[Series, int] | None = None,
    most: int = 20_000,
) -> bool:
    """Add gains to the sums, in one transaction; return whether there was room for all series.

    Args:
        gains: What was counted, by the time at which.
        engines: What engines counted since they began, by their name: what nobody has added yet
            is added.
        at: The time to which that goes.
        ids: Ids of series that are known; others are added.
        most: How many series there may be.

    Raises:
        DatabaseError: The database does not take them; none is added.
    """
    engines = engines or {}
    ids = {} if ids is None else ids
    known = _look_up([*gains.values(), *engines.values()], ids, most)
    using = router.db_for_write(Rollup)
    with transaction.atomic(using=using):
        parts = [*gains.items()]
        parts += [(at, _of_engine(name, engines[name])) for name in sorted(engines)]
        sums: defaultdict[tuple[int, int, int], float] = defaultdict(float)
        for when, gain in parts:
            for series, n in gain.items():
                if series in ids:
                    for step in STEPS.values():
                        sums[step, when // step * step, ids[series]] += n
        # In one order, so that two processes that add to the same rows never wait in a circle.
        rows = sorted(sums.items())
        with connections[using].cursor() as cursor:
            for start in range(0, len(rows), _STATEMENT):
                cursor.execute(*_upsert(connections[using], rows[start : start + _STATEMENT]))
    return known


def _of_engine(name: str, counted: Counts) -> Counts:
    """Return what an engine counted that nobody has added yet, and take note that it is now."""
    now = datetime.now(UTC)
    mark, _ = EngineMark.objects.get_or_create(engine=name, defaults={"seen": now, "counts": []})
    mark = EngineMark.objects.select_for_update().get(pk=mark.pk)
    before = {Series(*labels): n for *labels, n in mark.counts}
    batches = sum(n for series, n in counted.items() if series.name == "batches")
    known = sum(n for series, n in before.items() if series.name == "batches")
    if batches < known:
        return {}  # another process asked it later, and knows more
    mark.counts = [[*series, n] for series, n in counted.items()]
    mark.seen = now
    mark.save(update_fields=["counts", "seen"])
    return gained(before, counted)


def _look_up(parts: Iterable[Iterable[Series]], ids: dict[Series, int], most: int) -> bool:
    """Add the ids of series to those that are known; return whether there was room for all."""
    missing = {series for part in parts for series in part} - ids.keys()
    if not missing:
        return True
    _fetch(missing, ids)
    new = sorted(missing - ids.keys())
    if not new:
        return True
    room = most - RollupSeries.objects.count()
    RollupSeries.objects.bulk_create(
        [RollupSeries(**series._asdict()) for series in new[: max(0, room)]],
        ignore_conflicts=True,  # another process has just made it
        batch_size=_STATEMENT,
    )
    _fetch(new, ids)
    return len(new) <= room


def _fetch(series: Iterable[Series], ids: dict[Series, int]) -> None:
    wanted = set(series)
    rows = RollupSeries.objects.filter(name__in={each.name for each in wanted})
    for pk, *labels in rows.values_list("pk", *Series._fields):
        found = Series(*labels)
        if found in wanted:
            ids[found] = pk


def _upsert(
    connection: Any, rows: Sequence[tuple[tuple[int, int, int], float]]
) -> tuple[str, list[Any]]:
    """Return the statement that adds rows to those there are, in the SQL of SQLite and PostgreSQL.

    Django's own upsert replaces a value, and cannot add to it.
    """
    name = connection.ops.quote_name
    table = name(Rollup._meta.db_table)  # noqa: SLF001  (public, in spite of its name)
    columns = [name(column) for column in ("step", "at", "series_id")]
    value = name("value")
    sql = (
        f"INSERT INTO {table} ({', '.join(columns)}, {value}) "  # noqa: S608  (its own names)
        f"VALUES {', '.join(['(%s, %s, %s, %s)'] * len(rows))} "
        f"ON CONFLICT ({', '.join(columns)}) DO UPDATE SET {value} = {table}.{value} "
        f"+ excluded.{value}"
    )
    return sql, [each for key, n in rows for each in (*key, n)]


def prune(settings: RollupSettings, now: float) -> None:
    """Delete what is older than it may be, and the oldest of what is too much."""
    kept: Mapping[Step, float] = {
        "minute": settings.minute_hours * 3600,
        "hour": settings.hour_days * 86400,
        "day": settings.day_days * 86400,
    }
    try:
        for step, seconds in kept.items():
            Rollup.objects.filter(step=STEPS[step], at__lt=now - seconds).delete()
        _cut(settings.rows)
        old = datetime.fromtimestamp(now, UTC) - _MARKS_KEPT
        EngineMark.objects.filter(seen__lt=old).delete()
        if RollupSeries.objects.count() > settings.series * 0.9:
            used = Rollup.objects.filter(series=OuterRef("pk"))
            RollupSeries.objects.exclude(Exists(used)).delete()
    except DatabaseError as error:
        logger.warning("Old rollups could not be deleted: %s", error)


def _cut(most: int) -> None:
    """Leave only so many sums: the oldest minutes go first, then the oldest hours, then days."""
    over = Rollup.objects.count() - most
    for step in STEPS.values():
        rows = Rollup.objects.filter(step=step)
        if over > 0 and (there := rows.count()):
            last = rows.order_by("at").values_list("at", flat=True)[min(over, there) - 1]
            over -= rows.filter(at__lte=last).delete()[0]
