"""What a process counted, as plain values, and the sum over several processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from serving_app.core.batcher import BatcherStats
from serving_app.core.request_counts import RecommenderStats

__all__ = ["Statistics", "VersionStats"]


@dataclass(frozen=True, slots=True)
class VersionStats:
    """What one model version did, where it is live."""

    framework: str
    processes: int
    """In how many processes it is live."""
    batching: BatcherStats


@dataclass(frozen=True, slots=True)
class Statistics:
    """What one process, or several, counted of serving."""

    models: Mapping[str, RecommenderStats] = field(default_factory=dict)
    """Requests by model name."""
    versions: Mapping[str, Mapping[int, VersionStats]] = field(default_factory=dict)
    """Live versions by model name and number."""

    @classmethod
    def merged(cls, parts: Iterable[Statistics]) -> Statistics:
        """Return the statistics of several processes as one's."""
        models: defaultdict[str, list[RecommenderStats]] = defaultdict(list)
        versions: defaultdict[str, defaultdict[int, list[VersionStats]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for part in parts:
            for name, stats in part.models.items():
                models[name].append(stats)
            for name, numbers in part.versions.items():
                for number, version in numbers.items():
                    versions[name][number].append(version)
        return cls(
            models={name: RecommenderStats.merged(each) for name, each in models.items()},
            versions={
                name: {number: _merged(each) for number, each in numbers.items()}
                for name, numbers in versions.items()
            },
        )

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


def _merged(parts: list[VersionStats]) -> VersionStats:
    return VersionStats(
        framework=parts[0].framework,
        processes=sum(part.processes for part in parts),
        batching=BatcherStats.merged([part.batching for part in parts]),
    )
