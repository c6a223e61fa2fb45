"""What a process counted, as plain values, and the sum over several processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cache_app.core.codec import CodecStats
from cache_app.core.lease_waits import LeaseStats
from cache_app.core.negative import NegativeStats
from plugins.failures import PartFailures, summed
from serving_app.core.batcher import BatcherStats
from serving_app.core.outcomes import OutcomeCounts
from serving_app.core.request_counts import RecommenderStats
from serving_app.core.shadow import Pair, ShadowStats

__all__ = ["Statistics", "VersionStats", "by_model"]


@dataclass(frozen=True, slots=True)
class VersionStats:
    """What one model version did, where it is live."""

    framework: str
    processes: int
    """In how many processes it is live."""
    engines: Mapping[str, BatcherStats]
    """What each engine counted, by its name: processes that share an engine name the same."""
    outcomes: OutcomeCounts = field(default_factory=OutcomeCounts)
    """How computations ended that somebody waited for."""

    @property
    def batching(self) -> BatcherStats:
        """What all engines counted."""
        return BatcherStats.merged(list(self.engines.values()))


@dataclass(frozen=True, slots=True)
class Statistics:
    """What one process, or several, counted of serving, and of what serving asked of the cache."""

    models: Mapping[str, RecommenderStats] = field(default_factory=dict)
    """Requests by model name."""
    versions: Mapping[str, Mapping[int, VersionStats]] = field(default_factory=dict)
    """Live versions by model name and number."""
    codecs: Mapping[str, CodecStats] = field(default_factory=dict)
    """What values weigh and cost as bytes, by the level that keeps them."""
    negative: NegativeStats = field(default_factory=NegativeStats)
    """Questions that were refused out of the cache."""
    leases: LeaseStats | None = None
    """Leases of keys; None: there are none, as L2 is not one Redis."""
    shadows: Mapping[str, Mapping[int, Mapping[int, ShadowStats]]] = field(default_factory=dict)
    """By model name, production's version, and the shadow's."""
    plugins: Mapping[str, Mapping[str, PartFailures]] = field(default_factory=dict)
    """What plugins did wrong, by plugin and part."""

    @classmethod
    def merged(cls, parts: Iterable[Statistics]) -> Statistics:
        """Return the statistics of several processes as one's."""
        models: defaultdict[str, list[RecommenderStats]] = defaultdict(list)
        versions: defaultdict[str, defaultdict[int, list[VersionStats]]] = defaultdict(
            lambda: defaultdict(list)
        )
        codecs: defaultdict[str, list[CodecStats]] = defaultdict(list)
        parts = list(parts)
        shadows: defaultdict[Pair, list[ShadowStats]] = defaultdict(list)
        for part in parts:
            for pair, shadow in part.pairs().items():
                shadows[pair].append(shadow)
            for name, stats in part.models.items():
                models[name].append(stats)
            for name, codec in part.codecs.items():
                codecs[name].append(codec)
            for name, numbers in part.versions.items():
                for number, version in numbers.items():
                    versions[name][number].append(version)
        leases = [part.leases for part in parts if part.leases is not None]
        return cls(
            models={name: RecommenderStats.merged(each) for name, each in models.items()},
            versions={
                name: {number: _merged(each) for number, each in numbers.items()}
                for name, numbers in versions.items()
            },
            codecs={name: CodecStats.merged(each) for name, each in codecs.items()},
            negative=NegativeStats.merged([part.negative for part in parts]),
            leases=LeaseStats.merged(leases) if leases else None,
            shadows=by_model({pair: ShadowStats.merged(each) for pair, each in shadows.items()}),
            plugins=summed(part.plugins for part in parts),
        )

    def pairs(self) -> dict[Pair, ShadowStats]:
        """Return the shadows' counts by pair."""
        return {
            (name, number, shadow): stats
            for name, numbers in self.shadows.items()
            for number, others in numbers.items()
            for shadow, stats in others.items()
        }

    def as_json(self) -> dict[str, Any]:
        """Return the statistics as JSON values."""
        values: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return values

    @classmethod
    def from_json(cls, values: Any) -> Statistics:
        """Return the statistics that `as_json` wrote.

        Raises:
            ValueError: It did not write these; another release did, maybe.
        """
        return msgspec.convert(values, cls, str_keys=True)


def by_model(pairs: Mapping[Pair, ShadowStats]) -> dict[str, dict[int, dict[int, ShadowStats]]]:
    """Return the shadows' counts by model name, production's version, and the shadow's."""
    models: dict[str, dict[int, dict[int, ShadowStats]]] = {}
    for (name, number, shadow), stats in pairs.items():
        models.setdefault(name, {}).setdefault(number, {})[shadow] = stats
    return models


def _merged(parts: list[VersionStats]) -> VersionStats:
    engines: dict[str, BatcherStats] = {}
    for part in parts:
        for name, stats in part.engines.items():
            # Processes that share an engine asked it one after the other; the last knows most.
            if name not in engines or engines[name].submitted <= stats.submitted:
                engines[name] = stats
    return VersionStats(
        framework=parts[0].framework,
        processes=sum(part.processes for part in parts),
        engines=engines,
        outcomes=OutcomeCounts.merged(part.outcomes for part in parts),
    )
