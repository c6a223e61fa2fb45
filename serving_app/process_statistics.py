"""Statistics of all serving processes, which each tells to the database now and then."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.utils import timezone

from cache_app.wiring import codec_stats, get_leases, get_levels, l1_partitions
from plugins.apps import get_registry
from plugins.failures import PartFailures
from serving_app.core.live_models import LiveModels
from serving_app.core.recommender import Recommender
from serving_app.core.shadow import Shadows
from serving_app.core.statistics import Statistics, VersionStats, by_model
from serving_app.models import ProcessStatistics

logger = logging.getLogger(__name__)

GONE = 60.0
"""Seconds without a sign of life after which a process no longer counts."""


def own(live: LiveModels, recommender: Recommender, shadows: Shadows | None = None) -> Statistics:
    """Return what this process counted until now."""
    leases = get_leases()
    return Statistics(
        models=recommender.stats(),
        versions={
            name: {
                version.record.version: VersionStats(
                    version.record.framework,
                    1,
                    {version.counted_by: version.stats()},
                    version.outcomes.counts(),
                )
                for version in routes.versions
            }
            for name, routes in live.routes().items()
        },
        codecs=codec_stats(),
        negative=recommender.negative_stats(),
        leases=None if leases is None else leases.stats(),
        shadows={} if shadows is None else by_model(shadows.stats()),
        plugins=get_registry().failures.by_plugin(),
    )


def own_cache() -> dict[str, dict[str, Any]]:
    """Return what this process counted of each level of the cache."""
    return {name: dataclasses.asdict(stats) for name, stats in get_levels().stats().items()}


def own_partitions() -> dict[str, dict[str, int]]:
    """Return what this process counted of each segment's share of L1, and of the rest, ``all``."""
    return {
        name: {key: getattr(stats, key) for key in _OF_PARTITIONS}
        for name, stats in l1_partitions().items()
    }


_OF_PARTITIONS = ("hits", "misses", "insertions", "evictions", "entries", "weight", "capacity")
_PARTITIONS, _DRIFT = "l1_segments", "drift"
"""Under which they stand among the levels that a process tells."""


def tell(
    process: str, statistics: Statistics, drift: Mapping[tuple[str, str], int] | None = None
) -> None:
    """Let the other processes know of this one's statistics; forget those that are gone.

    Args:
        process: Its name.
        statistics: What it counted.
        drift: What it decided when preferences changed, by segment and action.
    """
    now = timezone.now()
    ProcessStatistics.objects.update_or_create(
        process=process,
        defaults={
            "seen": now,
            "serving": statistics.as_json(),
            "cache": {
                **own_cache(),
                _PARTITIONS: own_partitions(),
                _DRIFT: _by_segment(drift or {}),
            },
        },
    )
    ProcessStatistics.objects.filter(seen__lt=now - timedelta(seconds=GONE)).delete()


def forget(process: str) -> None:
    """Take a process's statistics away: it is ending."""
    ProcessStatistics.objects.filter(process=process).delete()


def others(process: str) -> Sequence[ProcessStatistics]:
    """Return what the other processes told, of those that are alive."""
    since = timezone.now() - timedelta(seconds=GONE)
    return list(ProcessStatistics.objects.filter(seen__gte=since).exclude(process=process))


def plugin_failures(process: str) -> Mapping[str, Mapping[str, PartFailures]]:
    """Return what plugins did wrong in this process and the others, by plugin and part."""
    own_failures = Statistics(plugins=get_registry().failures.by_plugin())
    return of_all(own_failures, others(process)).plugins


def of_all(statistics: Statistics, told: Sequence[ProcessStatistics]) -> Statistics:
    """Return this process's statistics and those of the others as one."""
    parts = [statistics]
    for row in told:
        try:
            parts.append(Statistics.from_json(row.serving))
        except ValueError as error:  # a process of another release, during an update
            logger.warning("The statistics of %s cannot be read: %s", row.process, error)
    return Statistics.merged(parts)


_SHARED = frozenset({"entries", "weight", "capacity", "nodes", "nodes_away"})
"""Of a level that processes share, these are the same in each, and not to be added up."""


def cache_of_all(
    levels: Mapping[str, Mapping[str, Any]], told: Sequence[ProcessStatistics]
) -> dict[str, dict[str, Any]]:
    """Return each level's counts, summed over this process and the others."""
    summed = {name: dict(counts) for name, counts in levels.items()}
    for row in told:
        for name, counts in row.cache.items():
            if name not in summed:
                continue  # a process with other settings, during an update
            for key, value in counts.items():
                shared = name != "l1" and key in _SHARED
                if isinstance(value, int) and not isinstance(value, bool) and not shared:
                    summed[name][key] = summed[name].get(key, 0) + value
    return summed


def partitions_of_all(
    partitions: Mapping[str, Mapping[str, int]], told: Sequence[ProcessStatistics]
) -> dict[str, dict[str, int]]:
    """Return the counts of each segment's share of L1, summed over this process and the others."""
    summed = {name: dict(counts) for name, counts in partitions.items()}
    for row in told:
        for name, counts in row.cache.get(_PARTITIONS, {}).items():
            into = summed.setdefault(name, dict.fromkeys(_OF_PARTITIONS, 0))
            for key in _OF_PARTITIONS:
                into[key] += counts.get(key, 0)
    return summed


def _by_segment(drift: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (segment, action), n in drift.items():
        found.setdefault(segment, {})[action] = n
    return found


def drift_of_all(
    drift: Mapping[tuple[str, str], int], told: Sequence[ProcessStatistics]
) -> dict[str, dict[str, int]]:
    """Return what was decided on drift, by segment and action, by this process and the others."""
    summed = _by_segment(drift)
    for row in told:
        for segment, actions in row.cache.get(_DRIFT, {}).items():
            into = summed.setdefault(segment, {})
            for action, n in actions.items():
                into[action] = into.get(action, 0) + n
    return summed
